"""`mae-jax report`: one HTML page about a run."""

import argparse
from pathlib import Path
from typing import Any

from mae_jax.cli.option_types import comma_list_of
from mae_jax.cli.outputs import add_overwrite, check_output
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import ColumnSchema

HELP = (
    "Write one HTML page about a run: reconstructions, loss, recall, gene map; or about a screen."
)
EXAMPLE = """\
  mae-jax report --train runs/mine --evaluation evaluation --out report.html
  mae-jax report --embeddings embeddings/mine --corrected corrected.parquet --index index.parquet \\
      --check check.csv --out screen.html"""


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
    screen = parser.add_argument_group("a screen's embeddings, instead of a training")
    screen.add_argument("--embeddings", metavar="PATH", help="an embeddings folder or profiles")
    screen.add_argument("--corrected", metavar="PATH", help="the same after correction")
    screen.add_argument("--index", help="the screen's index, for its images")
    screen.add_argument("--check", type=Path, metavar="CSV",
                        help="what `mae-jax index --check --report` wrote")  # fmt: skip
    screen.add_argument("--controls", default=ColumnSchema().controls, metavar="COLUMN=VALUE",
                        help="which wells are negative controls")  # fmt: skip
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    add_overwrite(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page and print its path."""
    from mae_jax.report.page import Sources, write_report
    from mae_jax.report.screen_page import ScreenSources, write_screen_page

    check_output(args.out, args.overwrite)
    if args.embeddings:
        if args.train or args.evaluation:
            raise InputError("--embeddings is about a screen; leave --train and --evaluation out.")
        screen = ScreenSources(
            embeddings=args.embeddings,
            corrected=args.corrected,
            index=args.index,
            check=args.check,
            controls=args.controls,
        )
        page = write_screen_page(args.out, screen, args.title or "Embeddings of a screen")
        print(page)
        return {"out": page}
    sources = Sources(
        train=args.train[0] if args.train else None,
        compared=args.train[1:],
        evaluation=args.evaluation,
        reconstructions=args.reconstructions,
        complexes=args.complexes,
    )
    page = write_report(args.out, sources, args.title or "mae_jax report")
    print(page)
    return {"out": page}
