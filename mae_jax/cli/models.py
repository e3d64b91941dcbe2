"""`mae-jax models`: the encoders that are had by name."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_jax.encoders.catalog import Entry

HELP = "list the encoders that --encoder takes by name, and one of them in full"
EXAMPLE = """\
  mae-jax models
  mae-jax models morphem
      (channels, licence, recipes, and where its weights are)
  mae-jax models --runs runs
      (also one's own models in that folder)"""

_HEADER = ("name", "channels", "scale", "crop", "licence", "MB", "here", "source")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("name", nargs="?", help="show this one in full")
    parser.add_argument(
        "--runs", metavar="FOLDER", help="also list the saved models in this folder"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the list, or one encoder of it."""
    import dataclasses

    from mae_jax.config import nearest
    from mae_jax.encoders.catalog import describe_recipe, entries
    from mae_jax.encoders.known_models import KNOWN_MODELS
    from mae_jax.errors import InputError

    listed = {entry.name: entry for entry in entries(args.runs)}
    if args.name is None:
        for line in _table(list(listed.values())):
            print(line)
        print("\nmae-jax models NAME shows one in full; mae-jax embed --encoder NAME takes it.")
        return {"models": [dataclasses.asdict(entry) for entry in listed.values()]}
    if args.name not in listed:
        raise InputError(f"no encoder is called '{args.name}': {nearest(args.name, list(listed))}")
    entry = listed[args.name]
    record = dataclasses.asdict(entry)
    known = KNOWN_MODELS.get(args.name)
    if known is not None:
        record |= {"parameters": known.parameters, "how": known.how()}
        record["recipes"] = [describe_recipe(recipe) for recipe in known.recipes]
    for key, value in record.items():
        if key != "recipes" and value not in ("", None):
            print(f"{key:12}{value:,.1f}" if isinstance(value, float) else f"{key:12}{value}")
    for recipe in record["recipes"]:
        print(f"recipe {recipe['name']}")
        for key, value in recipe.items():
            if key != "name" and value not in ("", None, (), False, 0):
                words = ", ".join(map(str, value)) if isinstance(value, tuple) else value
                print(f"  {key:18}{words}")
    suffix = f" --recipe {record['recipes'][-1]['name']}" if record["recipes"] else ""
    print(f"mae-jax embed --encoder {args.name}{suffix} --index index.parquet --out embeddings")
    return record


def _table(listed: "Sequence[Entry]") -> list[str]:
    rows = [_HEADER]
    for entry in listed:
        crop = "any" if entry.crop is None else str(entry.crop)
        size = f"{entry.megabytes:,.0f}" if entry.megabytes else "-"
        here = "yes" if entry.here else "no"
        rows.append((entry.name, entry.channels, entry.scale, crop, entry.licence or "-", size,
                     here, entry.source or "-"))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
