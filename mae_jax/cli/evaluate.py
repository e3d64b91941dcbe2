"""`mae-jax evaluate`: scores embeddings as the paper does."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae_jax.evaluation.profiles import Profiles

HELP = "Score embeddings as the paper does: recall of known relationships and more."
EXAMPLE = """  mae-jax evaluate recall --embeddings runs/demo/embeddings/mae --corrections all \\
      --relationships runs/demo/screen/relationships.csv --out runs/demo/evaluation
  mae-jax evaluate recall --help"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares one sub-command for each evaluation."""
    parts = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _recall_arguments(_part(parts, "recall", "recall of known relationships (Tables 2, 3, 6)"))


def run(args: argparse.Namespace) -> None:
    """Runs the chosen evaluation."""
    runs: dict[str, Callable[[argparse.Namespace], None]] = {"recall": _recall}
    runs[args.what](args)


def _part(parts: "argparse._SubParsersAction", name: str, says: str) -> argparse.ArgumentParser:
    return parts.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".")


def _recall_arguments(parser: argparse.ArgumentParser) -> None:
    from mae_jax.cli.correct import correction_arguments, layout_arguments

    parser.add_argument(
        "--embeddings",
        nargs="+",
        required=True,
        metavar="PATH",
        help="NAME=PATH or PATH, any number",
    )
    parser.add_argument(
        "--relationships", nargs="+", required=True, metavar="FILE", help="entity1,entity2 tables"
    )
    parser.add_argument(
        "--corrections", nargs="+", default=["tvn"], help="names, or all (default: tvn)"
    )
    parser.add_argument("--by", default="Metadata_Gene", metavar="COLUMN", help="what to relate")
    parser.add_argument(
        "--through",
        nargs="*",
        default=[],
        metavar="COLUMN",
        help="aggregate by these first, such as the guide",
    )
    parser.add_argument("--random", type=int, metavar="WIDTH", help="add random embeddings")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True, metavar="FOLDER")
    correction_arguments(parser)
    layout_arguments(parser)


def _recall(args: argparse.Namespace) -> None:
    from mae_jax.cli.correct import layout_of
    from mae_jax.evaluation.corrections import CORRECTIONS
    from mae_jax.evaluation.recall_tables import random_profiles, recall_tables
    from mae_jax.evaluation.relationships import Relationships
    from mae_jax.files import replacing, write_json

    layout = layout_of(args)
    embeddings = _read_embeddings(args)
    if args.random:
        embeddings["random"] = random_profiles(next(iter(embeddings.values())), args.random)
    names = list(CORRECTIONS) if args.corrections == ["all"] else args.corrections
    tables = recall_tables(
        embeddings,
        [Relationships.read(path) for path in args.relationships],
        names,
        by=args.by,
        through=args.through,
        fit_on=args.fit_on,
        batch=args.batch,
        layout=layout,
        resamples=args.resamples,
        seed=args.seed,
        progress=lambda message: print(message, flush=True),
    )
    out = Path(args.out)
    with replacing(out / "recall.csv") as beside:
        tables.table.to_csv(beside, index=False, float_format="%.6f")
    with replacing(out / "sweep.csv") as beside:
        tables.sweep.to_csv(beside, index=False, float_format="%.6f")
    if tables.cosines is not None:
        with replacing(out / "cosines.parquet") as beside:
            tables.cosines.to_parquet(beside)
    settings = {k: v for k, v in vars(args).items() if k != "what"}
    best = {"embeddings": tables.best[0], "correction": tables.best[1]}
    write_json(out / "settings.json", {"evaluation": "recall", **settings, "best": best})
    shown = tables.table.pivot(
        index=["embeddings", "correction"], columns="database", values="recall"
    )
    print(shown.round(3).to_string())
    print(out / "recall.csv")


def _read_embeddings(args: argparse.Namespace) -> "dict[str, Profiles]":
    """NAME=PATH or PATH (named by its last part), checked."""
    from mae_jax.cli.correct import layout_of
    from mae_jax.errors import InputError
    from mae_jax.evaluation.profiles import Profiles

    found: dict[str, Profiles] = {}
    for given in args.embeddings:
        name, equals, path = given.partition("=")
        if not equals:
            name, path = Path(given).name.split(".")[0], given
        if name in found:
            raise InputError(f"Two embeddings are called '{name}'; name them with NAME=PATH.")
        found[name] = Profiles.read(path).checked(
            nan=args.nan, duplicates=args.duplicates, layout=layout_of(args)
        )
    return found
