"""`mae-jax benchmark`: models on public benchmarks, beside published scores.

The sub-commands are the entries of `mae_jax.evaluation.benchmarks.BENCHMARKS`, and their options
are the fields of the specifications.
"""

import argparse

from mae_jax.cli.evaluate import add_page_options, add_spec_options, specification_of, write_page
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


def run(args: argparse.Namespace) -> None:
    """Run the chosen benchmark, save its files and its page, and print its summary."""
    from mae_jax.evaluation import benchmarks

    benchmark = BENCHMARKS[args.benchmark]
    result = benchmarks.run(specification_of(benchmark.spec, args), _say)
    path = result.save(args.out)
    for line in result.summary:
        print(line)
    write_page(args, result, None, title=benchmark.title)
    print(path)


def _say(message: str) -> None:
    print(message, flush=True)
