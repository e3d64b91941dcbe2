"""`mae-jax demo`."""

import argparse
from pathlib import Path

HELP = (
    "All of it on a synthetic screen: draw, index, train, embed, correct, score, report. "
    "Goes on where it was stopped."
)
EXAMPLE = """  mae-jax demo --out runs/demo
  mae-jax demo --out runs/seeds --seeds 0 1 2 --record benchmarks/results/demo"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for all of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0],
                        help="one whole run for each; the report compares them")  # fmt: skip
    parser.add_argument("--record", type=Path, metavar="FOLDER",
                        help="also write the tables of all seeds there")  # fmt: skip
    parser.add_argument("--quick", action="store_true",
                        help="a small screen and a short training: does all run?")  # fmt: skip


def run(args: argparse.Namespace) -> None:
    from mae_jax.cli.demo_pipeline import demo

    report = demo(args.out, seeds=args.seeds, quick=args.quick, record=args.record)
    print(f"\nreport: {report.resolve()}")
