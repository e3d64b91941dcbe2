"""`mae-jax evaluate`: scores embeddings as the paper does, and beyond.

The sub-commands are the entries of `mae_jax.evaluation.protocols.EVALUATIONS`, and their options
are the fields of the specifications.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

from mae_jax.cli.correct import add_read_options, add_schema_options, column_schema, read_options
from mae_jax.cli.field_options import add_field_options, default_text, options_of
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output, notes_of
from mae_jax.cli.removed_options import removed_option
from mae_jax.errors import InputError
from mae_jax.evaluation.columns import ReadOptions
from mae_jax.evaluation.profiles import ColumnSchema
from mae_jax.evaluation.protocols import EVALUATIONS
from mae_jax.evaluation.protocols.base import (
    MapSpec,
    ScoredWellsSpec,
    Spec,
    WellsSpec,
    embeddings_name,
)
from mae_jax.flops import PublishedMAE
from mae_jax.viz.projection import METHODS

if TYPE_CHECKING:
    from mae_jax.evaluation.results import Result

S = TypeVar("S", bound=Spec)

HELP = "Score embeddings as the paper does: recall of known relationships and more."
EXAMPLE = """\
  mae-jax evaluate recall --embeddings runs/demo/embeddings/trained --corrections all \\
      --relationships runs/demo/screen/relationships.csv --out runs/demo/evaluation
  mae-jax evaluate paper --embeddings MAE=mae_vitl.parquet,WSL=wsl.parquet --out paper \\
      --relationships corum:allComplexes.txt,string:links.txt.gz+info.txt.gz
  mae-jax evaluate recall --help"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare one sub-command for each evaluation."""
    commands = parser.add_subparsers(dest="evaluation", required=True, metavar="EVALUATION")
    for name, evaluation in EVALUATIONS.items():
        title = evaluation.title
        command = commands.add_parser(
            name,
            help=title.replace("%", "%%"),
            description=title[0].upper() + title[1:] + ".",
            epilog=f"example:\n  mae-jax evaluate {name} {evaluation.example}",
        )
        add_spec_options(command, evaluation.spec)
        add_dry_run(command)
        add_overwrite(command)
        command.add_argument(
            "--out", required=evaluation.needs_out, metavar="FOLDER",
            help="folder of the tables and of the page index.html",
        )  # fmt: skip
        add_page_options(command)


def add_page_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the page `index.html`."""
    parser.add_argument(
        "--index", metavar="PATH", help="the screen's index: the page shows pictures of wells"
    )
    parser.add_argument(
        "--projection",
        default="auto",
        choices=METHODS,
        help="of the wells on the page (auto: UMAP if installed, else t-SNE; principal components "
        "below 500 wells)",
    )
    parser.add_argument("--no-page", action="store_true", help="write the tables alone")


def write_page(
    args: argparse.Namespace, result: "Result", spec: Spec | None, title: str | None = None
) -> None:
    """Write and print the page of a saved result, unless the options say no."""
    from mae_jax.report.evaluation_page import PageOptions, write_evaluation_page

    if args.no_page:
        return
    index = None
    if args.index:
        from mae_jax.data.readers.open_screen import open_screen

        index = open_screen(args.index)
    options = PageOptions(
        index=index,
        index_path=args.index or "",
        projection=args.projection,
        title=title,
        scores_first=spec is None,
    )
    print(write_evaluation_page(args.out, result, spec, options, notes_of(args)))


def add_spec_options(parser: argparse.ArgumentParser, spec: type[Spec]) -> None:
    """Declare the options of a specification's fields."""
    add_field_options(parser, spec)
    types, options = get_type_hints(spec), options_of(spec)
    for field in dataclasses.fields(spec):
        if field.name not in options:
            if types[field.name] not in FIELDS_OF_SEVERAL_OPTIONS:
                raise TypeError(
                    f"{spec.__name__}.{field.name} has no option; annotate it with Option(…)."
                )
            FIELDS_OF_SEVERAL_OPTIONS[types[field.name]].add(parser)
    if issubclass(spec, ScoredWellsSpec):
        parser.add_argument(
            "--paper-protocol",
            action="store_true",
            help="score against the same controls as the fit, as the paper does; flatters "
            "corrections",
        )
    if issubclass(spec, MapSpec):
        reason = "is gone: intervals are computed without resampling"
        removed_option(parser, "--resamples", reason=reason)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen evaluation, save its files and print its summary."""
    from mae_jax import evaluation

    check_output(Path(args.out) / "settings.json" if args.out else None, args.overwrite)
    spec, notes = specification(args), notes_of(args)
    if args.dry_run:
        return _dry_run(spec, notes)
    result = evaluation.run(spec, notes)
    path = result.save(args.out) if args.out else None
    for line in result.summary:
        print(line)
    if path is not None:
        write_page(args, result, spec)
        print(path)
    return {"out": path, "evaluation": args.evaluation, "summary": result.summary,
            "tables": result.tables}  # fmt: skip


def _dry_run(spec: Spec, notes: Callable[[str], None]) -> dict[str, Any]:
    """Read the embeddings and the relationships, and say what they are."""
    found: dict[str, Any] = {"evaluation": spec.name, "dry_run": True}
    if isinstance(spec, WellsSpec):
        wells = {name: len(profiles) for name, profiles in spec.load(notes).items()}
        print(*(f"{name}: {count:,} wells" for name, count in wells.items()), sep="\n")
        found["wells"] = wells
    if isinstance(spec, MapSpec):
        pairs = {database.name: len(database) for database in spec.databases()}
        print(*(f"{name}: {count:,} relationships" for name, count in pairs.items()), sep="\n")
        found["relationships"] = pairs
    print("nothing was written")
    return found


def specification(args: argparse.Namespace) -> Spec:
    """The specification of an evaluation that the options describe."""
    return specification_of(EVALUATIONS[args.evaluation].spec, args)


def specification_of(spec_type: type[S], args: argparse.Namespace) -> S:
    """A specification of the given type that the options describe."""
    options, types = options_of(spec_type), get_type_hints(spec_type)
    values = {}
    for field in dataclasses.fields(spec_type):
        option = options.get(field.name)
        if option is None:
            values[field.name] = FIELDS_OF_SEVERAL_OPTIONS[types[field.name]].build(args)
        elif not hasattr(args, field.name):  # several values, none given: the field's default
            continue
        elif option.named:
            values[field.name] = _by_name(getattr(args, field.name), field.name)
        else:
            values[field.name] = getattr(args, field.name)
    if getattr(args, "paper_protocol", False):
        values["holdout_controls"] = 0.0
    return spec_type(**values)


def _by_name(options: Sequence[str], what: str) -> dict[str, str]:
    """NAME=PATH or PATH, which is called by its file name."""
    paths: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals:
            name, path = embeddings_name(option), option
        if name in paths:
            raise InputError(f"two {what} are called '{name}'; name them with NAME=PATH.")
        paths[name] = path
    return paths


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=("S", "B", "L"), required=True, help="of the ViT")
    defaults = {f.name: f.default for f in dataclasses.fields(PublishedMAE)}
    numbers = {
        "patch": "side of a patch in pixels",
        "crop": "side of a crop in pixels",
        "channels": "image channels",
        "mask_ratio": "share of the tokens that are hidden",
    }
    for name, help_text in numbers.items():
        default = defaults[name]
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=type(default),
            default=default,
            help=help_text + default_text(default),
        )
    parser.add_argument("--channel-agnostic", action="store_true", help="tokens of one channel")


def _network(args: argparse.Namespace) -> PublishedMAE:
    names = ("size", "patch", "crop", "channels", "channel_agnostic", "mask_ratio")
    return PublishedMAE(**{name: getattr(args, name) for name in names})


class _SeveralOptions(NamedTuple):
    add: Callable[[argparse.ArgumentParser], None]
    build: Callable[[argparse.Namespace], object]


# Type of a field -> the options that describe it and the function that builds it from them.
FIELDS_OF_SEVERAL_OPTIONS: dict[type, _SeveralOptions] = {
    ColumnSchema: _SeveralOptions(add_schema_options, column_schema),
    ReadOptions: _SeveralOptions(add_read_options, read_options),
    PublishedMAE: _SeveralOptions(_add_network_options, _network),
}
