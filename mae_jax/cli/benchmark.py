"""`mae-jax benchmark`: models on public benchmarks, beside published scores.

The sub-commands are the entries of `mae_jax.evaluation.benchmarks.BENCHMARKS`, and their options
are the fields of the specifications.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from mae_jax.cli.evaluate import add_page_options, add_spec_options, specification_of, write_page
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output, notes_of
from mae_jax.evaluation.benchmarks import BENCHMARKS

HELP = "Score models on a public benchmark, beside published scores and baselines."
EXAMPLE = """\
  mae-jax benchmark cpjump1 --embeddings MAE=emb/mae,untrained=emb/untrained \\
      --metadata cpjump1_design --out cpjump1
  mae-jax benchmark cpjump1 --help"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command for each benchmark."""
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, benchmark in BENCHMARKS.items():
        title = benchmark.title
        command = commands.add_parser(
            name,
            help=title.replace("%", "%%"),
            description=f"{title[0].upper()}{title[1:]}. --metadata is a folder with "
            f"{benchmark.files}.",
            epilog=f"example:\n  mae-jax benchmark {name} {benchmark.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        add_spec_options(command, benchmark.spec)
        command.add_argument(
            "--out", required=True, metavar="FOLDER",
            help="folder of the tables, figures and the page index.html",
        )  # fmt: skip
        add_page_options(command)
        add_overwrite(command)
        add_dry_run(command)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen benchmark, save its files and its page, and print its summary."""
    from mae_jax.evaluation import benchmarks

    check_output(Path(args.out) / "settings.json", args.overwrite)
    benchmark, notes = BENCHMARKS[args.benchmark], notes_of(args)
    spec = specification_of(benchmark.spec, args)
    if args.dry_run:
        coverage = benchmarks.coverage(spec, notes)
        print(coverage.to_string(index=False), "nothing was written", sep="\n")
        return {"benchmark": spec.name, "dry_run": True, "coverage": coverage}
    work = Path(args.out) / "partial"  # an interrupted run goes on from there
    result = benchmarks.run(spec, notes, work)
    path = result.save(args.out)
    shutil.rmtree(work, ignore_errors=True)
    for line in result.summary:
        print(line)
    write_page(args, result, None, title=benchmark.title)
    print(path)
    return {"out": path, "benchmark": spec.name, "summary": result.summary,
            "tables": result.tables}  # fmt: skip
