"""The options that say how a screen is read, of `mae-jax index` and `mae-jax run`."""

import argparse
import os
import sys
from typing import TYPE_CHECKING

from mae_jax.cli.option_types import comma_list
from mae_jax.data.image_uri import PROJECTIONS
from mae_jax.errors import InputError

if TYPE_CHECKING:
    from mae_jax.data.index import Index

_LISTS = ("channel_names", "metadata_value", "allow_protocols")
_VALUES = ("format", "pattern", "images", "metadata", "plane", "time")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Declares the source and the options of reading it."""
    from mae_jax.data.readers.registry import readers

    formats = "; ".join(f"{reader.name}: {reader.title}" for reader in readers().values())
    parser.add_argument(
        "source",
        nargs="+",
        help="a folder of images, LoadData tables (or a folder of them), a sample sheet, or an "
        "index; several become one index",
    )
    parser.add_argument("--format", default="auto", help=f"auto (default), or one of: {formats}")
    parser.add_argument(
        "--pattern",
        help="what a folder's file names say, such as "
        "'{Metadata_Well}_{Metadata_Site}_{channel}.tif' (* for any text), or a regular expression "
        "with (?P<well>…) and so on; fields: experiment, plate, well or row and column, site, "
        "channel, z, time, sample (in place of wells); others become metadata",
    )
    parser.add_argument(
        "--illumination",
        action="store_true",
        help="divide images by the illumination functions that the CSV names, whenever read",
    )
    parser.add_argument(
        "--estimate-illumination",
        metavar="FOLDER",
        help="estimate an illumination function per plate and channel from the images (at least 16 "
        "sites), write them here (.npy), and divide the images by them whenever read",
    )
    parser.add_argument(
        "--images", help="folder or URL of a table's images, if not the table's own"
    )
    parser.add_argument(
        "--channel-names",
        type=comma_list,
        action="extend",
        default=[],
        metavar="NAME,…",
        help="names of a folder's channels by their numbers' order, or as 6=Brightfield",
    )
    parser.add_argument(
        "--metadata",
        metavar="TABLE",
        help="a platemap (CSV, TSV, Parquet) to join by (plate and) well, or row and column; or a "
        "folder with barcode_platemap.csv and platemap/",
    )
    parser.add_argument(
        "--metadata-value",
        type=comma_list,
        action="extend",
        default=[],
        metavar="COLUMN=VALUE,…",
        help="metadata with one value for all sites, such as Experiment=Batch1",
    )
    parser.add_argument(
        "--plane",
        type=_plane,
        metavar="NUMBER|max|mean",
        help="the z-plane to take, where there are several; max or mean to project them whenever "
        "read; 'projection' for the instrument's own projections",
    )
    parser.add_argument("--time", type=int, help="the time point to take, where there are several")
    parser.add_argument(
        "--allow-protocols",
        type=comma_list,
        action="extend",
        default=[],
        metavar="PROTOCOL,…",
        help="read URLs of these protocols too; file, s3, gs and https are allowed as they are",
    )


def open_sources(args: argparse.Namespace) -> tuple[list[str], "Index"]:
    """The names of the sources' formats, and the index that the options describe.

    Raises:
      InputError: see `open_screen`.
    """
    from mae_jax.data.illumination import with_illumination
    from mae_jax.data.readers.open_screen import open_screen, screen_format

    if args.allow_protocols:
        allowed = [*filter(None, [os.environ.get("MAE_JAX_PROTOCOLS")]), *args.allow_protocols]
        os.environ["MAE_JAX_PROTOCOLS"] = ",".join(dict.fromkeys(allowed))
    formats = dict.fromkeys(screen_format(s, args.format, args.pattern) for s in args.source)
    index = open_screen(
        args.source,
        format=next(iter(formats)) if len(formats) == 1 else args.format,
        images=args.images,
        channel_names=args.channel_names,
        metadata=args.metadata,
        metadata_value=_metadata_value(args.metadata_value),
        plane=args.plane,
        time=args.time,
        pattern=args.pattern,
    )
    if args.estimate_illumination:
        index = _with_estimates(index, args)
    return list(formats), with_illumination(index) if args.illumination else index


def _with_estimates(index: "Index", args: argparse.Namespace) -> "Index":
    """The index whose images are divided by illumination functions estimated from themselves."""
    from mae_jax.data.illumination import with_illumination
    from mae_jax.data.illumination_estimate import estimate_illumination

    if args.illumination:
        raise InputError(
            "--illumination divides by given functions, --estimate-illumination by estimated ones; "
            "keep one of them."
        )
    if args.dry_run:
        return index
    index, table = estimate_illumination(
        index, args.estimate_illumination, progress=sys.stderr.isatty() and not args.quiet
    )
    for row in table.to_dict("records"):
        print(
            f"illumination of plate {row['plate']}, channel {row['channel']} from {row['images']} "
            f"images: {row['lowest']:.2f} to {row['highest']:.2f}, error about {row['error']:.1%}"
        )
    return with_illumination(index)


def reading_words(args: argparse.Namespace) -> list[str]:
    """The words of a command line that read the same screen in the same way."""
    words = list(args.source)
    for name in _VALUES:
        value = getattr(args, name)
        if value is not None and (name, value) != ("format", "auto"):
            words += [f"--{name}", str(value)]
    for name in _LISTS:
        if getattr(args, name):
            words += [f"--{name.replace('_', '-')}", ",".join(getattr(args, name))]
    if args.estimate_illumination:
        words += ["--estimate-illumination", args.estimate_illumination]
    return words + ["--illumination"] * args.illumination


def _plane(text: str) -> int | str:
    if text in ("projection", *PROJECTIONS):
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no plane; give a number, max, mean or projection"
        ) from None


def _metadata_value(settings: list[str]) -> dict[str, str]:
    columns = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError(f"--metadata-value takes COLUMN=VALUE, not '{setting}'.")
        columns[name] = value
    return columns
