"""`mae-jax pack`: converts any index into a store that training reads quickly."""

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mae_jax.cli.option_types import add_screen, comma_list, comma_list_of, screen
from mae_jax.cli.outputs import add_dry_run
from mae_jax.cli.removed_options import removed_option
from mae_jax.errors import InputError

HELP = "convert a screen into a training store: sharded OME-Zarr, or ArrayRecord tiles"
EXAMPLE = """\
  mae-jax pack index.parquet --out store --uint8
  mae-jax pack index.parquet --out store --shard 3/8      # on the fourth of eight machines
  mae-jax train --config configs/demo.py --config.data.index=store/index.parquet …
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_screen(parser, "the index of the screen (parquet)")
    parser.add_argument("--out", required=True, help="the folder of the store")
    parser.add_argument(
        "--layout", default="zarr", choices=["zarr", "tiles"], help="of the store (zarr)"
    )
    parser.add_argument(
        "--channels",
        type=comma_list,
        action="extend",
        default=[],
        metavar="NAME,…",
        help="keep these only, in this order",
    )
    parser.add_argument("--uint8", action="store_true", help="scale 16 bits to 8 by percentiles")
    parser.add_argument(
        "--percentiles",
        type=comma_list_of(float, 2),
        default=[0.1, 99.9],
        metavar="LOW,HIGH",
        help="percentiles (per plate and channel) that become 0 and 255 (0.1,99.9)",
    )
    parser.add_argument("--chunk", type=int, default=64, help="side of a Zarr chunk, pixels (64)")
    parser.add_argument("--tile", type=int, default=512, help="side of a tile, pixels (512)")
    parser.add_argument("--illumination", action="store_true", help="divide by illumination first")
    parser.add_argument(
        "--shard", default="0/1", help="this process's shard, from 0, such as 3/8 (0/1)"
    )
    parser.add_argument("--threads", type=int, default=4, help="units written concurrently (4)")
    parser.add_argument(
        "--max-unreadable-fraction",
        type=float,
        default=0.01,
        help="stop above this fraction of unreadable sites (0.01)",
    )
    add_dry_run(parser)
    removed_option(parser, "--max-broken", "--max-unreadable-fraction")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Packs this process's shard of the screen."""
    from mae_jax.data.illumination import with_illumination
    from mae_jax.data.index import Index
    from mae_jax.data.pack import PackSettings, pack
    from mae_jax.data.pack_units import plan_units

    index = Index.read(screen(args))
    if args.illumination:
        index = with_illumination(index)
    settings = PackSettings(
        layout=args.layout,
        channels=tuple(args.channels),
        chunk=args.chunk,
        tile=args.tile,
        uint8=args.uint8,
        percentiles=(args.percentiles[0], args.percentiles[1]),
        max_unreadable_fraction=args.max_unreadable_fraction,
    )
    if args.dry_run:
        units = len(plan_units(index, settings))
        print(f"{len(index)} sites in {units} units, to {args.out}; nothing was written")
        return {"out": args.out, "dry_run": True, "sites": len(index), "units": units}
    result = pack(
        index,
        args.out,
        settings,
        shard=_shard(args.shard),
        threads=args.threads,
        progress=sys.stderr.isatty() and not args.quiet,
    )
    record = {"out": args.out, **dataclasses.asdict(result)}
    print(f"{result.done} of {result.units} units are done")
    if not result.finished:
        print("run the other shards, unless they run: the last one verifies and finishes the store")
        return record
    if result.skipped:
        print(f"{result.skipped} sites could not be read: see {args.out}/skipped.csv")
    print(f"verified every checksum; wrote {args.out}/index.parquet")
    if args.layout == "zarr":
        print(how_to_look(args.out))
    return {**record, "index": f"{args.out}/index.parquet"}


def how_to_look(store: str) -> str:
    """Lines that open the first plate of a store in napari, and in vizarr through a web server."""
    plate = min(path.relative_to(store) for path in Path(store, "plates").rglob("*.zarr"))
    return (
        "to look at it (pip install 'napari[all]' napari-ome-zarr):\n"
        f"  napari --plugin napari-ome-zarr {shlex.quote(str(Path(store) / plate))}\n"
        "  or, where a web server with CORS gives out the store:\n"
        f"  https://hms-dbmi.github.io/vizarr/?source=https://YOUR-SERVER/{quote(str(plate))}"
    )


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not slash or not number.isdigit() or not count.isdigit():
        raise InputError(f"--shard takes NUMBER/COUNT such as 3/8, not '{text}'.")
    return int(number), int(count)
