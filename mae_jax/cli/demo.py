"""`mae-jax demo`: the whole pipeline on a synthetic screen."""

import argparse
from pathlib import Path
from typing import Any

from mae_jax.cli.option_types import comma_list_of
from mae_jax.cli.outputs import add_dry_run

HELP = (
    "Run everything on a synthetic screen: render, index, train, embed, correct, evaluate, "
    "report. An interrupted demo resumes."
)
EXAMPLE = """  mae-jax demo --out runs/demo
  mae-jax demo --out runs/seeds --seeds 0,1,2 --record benchmarks/results/demo"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="folder of all output (runs/demo)"
    )
    parser.add_argument("--seeds", type=comma_list_of(int), action="extend", metavar="N,…",
                        help="one whole run per seed; the report compares them (0)")  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FOLDER",
                        help="also write the tables of all seeds to this folder")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="small screen, short training: checks that all runs")  # fmt: skip
    add_dry_run(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the demo and print the path of its report."""
    from mae_jax.cli.demo_pipeline import demo, dry_run

    if args.dry_run:
        lines = dry_run(args.out, seeds=args.seeds or [0], quick=args.quick)
        print(*lines, sep="\n")
        return {"out": args.out, "dry_run": True, "commands": lines}
    report = demo(
        args.out,
        seeds=args.seeds or [0],
        quick=args.quick,
        quiet=args.quiet,
        record=args.record,
    )
    print(f"\nreport: {report.resolve()}")
    return {"out": args.out, "report": report.resolve()}
