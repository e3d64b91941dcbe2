"""`mae-jax reconstruct`: what a masked autoencoder makes of a screen's images."""

import argparse
from pathlib import Path
from typing import Any

from mae_jax.cli.option_types import add_screen, comma_list, screen
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output
from mae_jax.cli.removed_options import removed_option

HELP = "show masked, reconstructed and original images of a screen"
EXAMPLE = """\
  mae-jax reconstruct --encoder runs/mine/model --index index.parquet --out pictures
  mae-jax reconstruct --encoder runs/mine/model --index index.parquet --out pictures \\
      --mask-ratio 0.5 --wells P1/B07,C03 --missing Mito"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add = parser.add_argument
    add(
        "--encoder",
        required=True,
        metavar="PATH",
        help="a saved model with its decoder, or a training's folder",
    )
    add_screen(parser)
    add("--out", required=True, help="the folder for index.html and the pictures")
    add("--mask-ratio", type=float, help="share of patches to hide (that of training)")
    several: dict[str, Any] = {"type": comma_list, "action": "extend"}
    wells = "wells such as B07 or PLATE/B07"
    add("--wells", **several, default=[], metavar="WELL,…", help=wells)
    add("--count", type=int, default=4, help="how many wells, where none are named (4)")
    add("--split", help="choose from this split alone: train or validation")
    channels = "channels to show (all the decoder knows)"
    add("--channels", **several, metavar="NAME,…", help=channels)
    missing = "also predict these stains from the others"
    add("--missing", **several, default=[], metavar="NAME,…", help=missing)
    add("--crop", type=int, help="side of a crop in pixels (that of training)")
    add("--seed", type=int, default=0, help="of the masks and the choice of wells (0)")
    add_dry_run(parser)
    add_overwrite(parser)
    removed_option(parser, "--model", "--encoder")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Draws the pictures and prints the path of the page."""
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.encoders import load_encoder
    from mae_jax.inference.reconstruction_job import reconstruct_index

    check_output(Path(args.out) / "index.html", args.overwrite)
    index = open_screen(screen(args))
    if args.split:
        index = index.select(Split=args.split)
    encoder = load_encoder(args.encoder)
    if args.dry_run:
        print(f"{encoder}\n{len(index.wells())} wells to choose from; nothing was written")
        return {"out": args.out, "dry_run": True, "wells": len(index.wells())}
    page = reconstruct_index(
        encoder,
        index,
        args.out,
        mask_ratio=args.mask_ratio,
        wells=args.wells,
        count=args.count,
        channels=args.channels,
        missing=args.missing,
        crop=args.crop,
        seed=args.seed,
    )
    print(page)
    return {"out": page}
