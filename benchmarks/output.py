"""Where a benchmark writes its results: outside of version control, unless asked."""

import argparse
from pathlib import Path

ROOT = Path(__file__).parent.parent


def add_output_args(parser: argparse.ArgumentParser, name: str) -> None:
    """Adds `--out` and `--save`; both set `args.out`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--out",
        type=Path,
        default=ROOT / "runs" / "benchmarks" / name,
        metavar="FOLDER",
        help=f"folder of the results (runs/benchmarks/{name})",
    )
    group.add_argument(
        "--save",
        dest="out",
        action="store_const",
        const=ROOT / "benchmarks" / "results" / name,
        help=f"write the results to benchmarks/results/{name}, which are under version control",
    )
