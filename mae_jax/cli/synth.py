"""`mae-jax synth`: render a synthetic Cell Painting screen."""

import argparse
from typing import Any

from mae_jax.cli.outputs import add_dry_run

HELP = "Render a synthetic Cell Painting screen with known biology."
EXAMPLE = """  mae-jax synth --out runs/screen --seed 0
  mae-jax synth --out runs/small --genes 24 --experiments 2 --plates 2 --channels rxrx

Writes images/ (uint16 TIFFs), load_data.csv, relationships.csv (pairs of genes in the same
complex), complexes.csv (ground truth) and screen.json. An interrupted command resumes."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("--out", required=True, metavar="FOLDER", help="folder of the screen")
    add("--seed", type=int, help="random seed (default 0)")
    add("--experiments", type=int, help="experiments (default 4)")
    add("--plates", type=int, help="plates per experiment (default 3)")
    add("--genes", type=int, help="genes knocked out, most of them in complexes (default 48)")
    add("--complex-size", type=int, help="genes per complex (default: 3 or 4)")
    add("--wells-per-gene", type=int, help="wells per gene and plate (default 2)")
    add("--controls", type=int, help="negative-control wells per plate (default 14)")
    add("--sites", type=int, help="fields of view per well (default 1)")
    add("--image-size", type=int, help="pixels along a field's side (default 192)")
    add("--channels", help="jump (5 channels, default), rxrx (6) or names joined by commas")
    add("--phenotype-strength", type=float, help="scale of the knock-outs' effects (default 1)")
    add("--batch-strength", type=float, help="scale of the batch effects (default 1)")
    add("--noise-strength", type=float, help="scale of the noise (default 1)")
    add("--processes", type=int, help="worker processes (default: one per CPU)")
    add_dry_run(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Render the screen and print the path of its table."""
    from mae_jax.config import from_dict
    from mae_jax.synth import (
        JUMP_CHANNELS,
        RXRX_CHANNELS,
        ScreenConfig,
        complex_sizes_for,
        make_screen,
    )

    own = {"out", "channels", "complex_size", "processes", "quiet", "dry_run"}
    values = {k: v for k, v in vars(args).items() if k not in own and v is not None}
    if args.genes is not None or args.complex_size is not None:
        genes = ScreenConfig.genes if args.genes is None else args.genes
        values["complex_sizes"] = complex_sizes_for(genes, args.complex_size)
    if args.channels is not None:
        sets = {"jump": JUMP_CHANNELS, "rxrx": RXRX_CHANNELS}
        names = tuple(name.strip() for name in args.channels.split(","))
        values["channels"] = sets.get(args.channels.lower(), names)
    config = from_dict(ScreenConfig, values, where="synth")
    wells = config.experiments * config.plates * config.wells_per_plate
    print(
        f"{wells} wells on {config.experiments * config.plates} plates: {config.genes} genes, "
        f"{len(config.complex_sizes)} complexes, channels {', '.join(config.channels)}."
    )
    if args.dry_run:
        print("nothing was written")
        return {"out": args.out, "dry_run": True, "wells": wells}
    table = make_screen(args.out, config, processes=args.processes, progress=not args.quiet)
    print(table)
    return {"out": args.out, "table": table, "wells": wells}
