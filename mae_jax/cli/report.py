"""`mae-jax report`: one HTML page about a run."""

import argparse
from pathlib import Path
from typing import Any

from mae_jax.cli.option_types import comma_list_of
from mae_jax.cli.outputs import add_overwrite, check_output

HELP = "Write one HTML page about a run: reconstructions, loss, recall, gene map."
EXAMPLE = "  mae-jax report --train runs/mine --evaluation evaluation --out report.html"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--train", type=comma_list_of(Path), action="extend", default=[],
                        metavar="FOLDER,…", help="a training work folder; the "
                        "losses of further ones are plotted for comparison")  # fmt: skip
    parser.add_argument("--evaluation", type=Path, help="a folder of `mae-jax evaluate recall`")
    parser.add_argument("--reconstructions", type=comma_list_of(Path), action="extend",
                        default=[], metavar="FILE,…",
                        help="images to show instead of the training's last ones")  # fmt: skip
    parser.add_argument(
        "--complexes",
        type=Path,
        help="CSV with Metadata_Gene and Complex, the order of the heat map",
    )
    parser.add_argument("--title", default="mae_jax report")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page and print its path."""
    from mae_jax.report.page import Sources, write_report

    check_output(args.out, args.overwrite)
    sources = Sources(
        train=args.train[0] if args.train else None,
        compared=args.train[1:],
        evaluation=args.evaluation,
        reconstructions=args.reconstructions,
        complexes=args.complexes,
    )
    page = write_report(args.out, sources, args.title)
    print(page)
    return {"out": page}
