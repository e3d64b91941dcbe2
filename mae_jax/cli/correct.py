"""`mae-jax correct`: removes batch effects from embeddings."""

import argparse
from typing import TYPE_CHECKING, Any

from mae_jax.cli.field_options import add_field_options, default_text
from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output, notes_of
from mae_jax.errors import InputError
from mae_jax.evaluation.columns import ReadOptions
from mae_jax.evaluation.correction_spec import DEFAULT, steps_text
from mae_jax.evaluation.profiles import ColumnSchema
from mae_jax.evaluation.protocols.base import WellsSpec

if TYPE_CHECKING:
    import numpy as np

    from mae_jax.evaluation.profiles import Profiles

HELP = "Remove batch effects from embeddings: Table 2's nine corrections, and chains of steps."
EXAMPLE = """\
  mae-jax correct --embeddings runs/demo/embeddings/trained --method tvn --save-fit tvn.npz \\
      --out tvn.parquet
  mae-jax correct --embeddings profiles.parquet --out corrected.parquet \\
      --method 'mad|int|select|tvn:components=150,ridge=0.2'
  mae-jax correct --embeddings new_plates --fitted tvn.npz --out new_corrected.parquet"""


def add_schema_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which metadata column is which."""
    group = parser.add_argument_group("metadata columns")
    default = ColumnSchema()
    group.add_argument(
        "--controls",
        default=default.controls,
        metavar="COLUMN=VALUE",
        help="which rows are negative controls, or none" + default_text(default.controls),
    )
    for name in ("plate", "experiment", "well", "perturbation"):
        column = getattr(default, name)
        help_text = f"which column names the {name}" + default_text(column)
        group.add_argument(f"--{name}", default=column, metavar="COLUMN", help=help_text)


def add_read_options(parser: argparse.ArgumentParser) -> None:
    """The options of reading profiles."""
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--feature-columns",
        type=comma_list,
        action="extend",
        default=[],
        metavar="PATTERN,…",
        help="the feature columns, as patterns such as 'Image_MAE_*' (default: every numeric "
        "column that does not describe the well)",
    )
    group.add_argument("--metadata", metavar="FILE", help="a second table with the metadata")
    group.add_argument(
        "--key",
        type=comma_list,
        action="extend",
        default=[],
        metavar="COLUMN,…",
        help="columns that join the second table (default: row by row)",
    )
    group.add_argument(
        "--allow-incomplete",
        action="store_true",
        help="read the finished shards of embeddings that are not complete",
    )
    group.add_argument("--obsm", metavar="KEY", help="a matrix of AnnData's obsm instead of X")


def column_schema(args: argparse.Namespace) -> ColumnSchema:
    """The ColumnSchema that the options describe."""
    return ColumnSchema(
        experiment=args.experiment,
        plate=args.plate,
        well=args.well,
        perturbation=args.perturbation,
        controls=args.controls,
    )


def read_options(args: argparse.Namespace) -> ReadOptions:
    """The ReadOptions that the options describe."""
    return ReadOptions(
        feature_columns=tuple(args.feature_columns),
        metadata=args.metadata,
        key=tuple(args.key),
        obsm=args.obsm,
        allow_incomplete=args.allow_incomplete,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--embeddings", required=True, metavar="PATH", help="folder or file")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".parquet, .csv, .tsv, .h5ad or .zarr to write"
    )
    parser.add_argument(
        "--method",
        default=DEFAULT,
        metavar="NAME",
        help="a step of those listed below, or a chain of them joined by | (default: "
        f"{DEFAULT}, which was better than tvn on CPJUMP1, scored against controls that neither "
        "had seen: benchmarks/results/corrections)",
    )
    add_dry_run(parser)
    add_overwrite(parser)
    parser.add_argument("--save-fit", metavar="FILE", help="write the fitted correction (.npz)")
    parser.add_argument("--fitted", metavar="FILE", help="apply this fitted correction")
    parser.add_argument(
        "--holdout-controls",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each plate's negative controls to leave out of the fit (0); `evaluate` "
        "with the same share and seed scores against them",
    )
    parser.add_argument(
        "--holdout-treatments",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the treatments to leave out of the fit (0), likewise",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is held out (0)")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read and write block by block, for parquet larger than memory; stops at NaN",
    )
    add_field_options(parser, WellsSpec, ("fit_on", "batch", "nan", "duplicates"))
    add_schema_options(parser)
    add_read_options(parser)
    add_steps_text(parser)


def add_steps_text(parser: argparse.ArgumentParser) -> None:
    """Describe the steps of corrections and their options."""
    parser.add_argument_group(
        "steps of corrections",
        "Write options after a colon: 'pca:components=128|tvn:ridge=0.2,scale=yes'. Each step\n"
        "takes what the one before gives. components=0 and variance=0 keep all axes; batch is\n"
        "plate, experiment, a column or all; fit is controls or all (default: --fit-on).\n\n"
        + steps_text(),
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Fit or load a correction, apply it, write the result."""
    from mae_jax.embeddings.table_files import check_ending
    from mae_jax.evaluation.corrections import Correction, fit, is_transductive, label
    from mae_jax.evaluation.holdout import held_out_controls, held_out_treatments, mark_seen
    from mae_jax.evaluation.profiles import Profiles

    schema = column_schema(args)
    check_ending(args.out)
    check_output(args.out, args.overwrite)
    check_output(args.save_fit, args.overwrite)
    if args.stream:
        return _run_stream(args)
    profiles = Profiles.read(
        args.embeddings, options=read_options(args), notes=notes_of(args)
    ).checked(nan=args.nan, duplicates=args.duplicates, schema=schema)
    held_out = held_out_controls(profiles, args.holdout_controls, schema=schema, seed=args.seed)
    held_out |= held_out_treatments(
        profiles, args.holdout_treatments, schema=schema, seed=args.seed
    )
    if not args.fitted and is_transductive(args.method):
        return _run_together(args, profiles, held_out)
    reference = profiles.take(~held_out) if held_out.any() else profiles
    if args.fitted:
        correction = Correction.load(args.fitted)
    else:
        correction = fit(
            reference, args.method, fit_on=args.fit_on, batch=args.batch, schema=schema
        )
    if args.dry_run:
        print(f"{len(profiles):,} wells x {profiles.width} features; nothing was written")
        return {"out": args.out, "dry_run": True, "wells": len(profiles)}
    correction = correction.fit_missing_batches(reference)
    corrected = mark_seen(correction.transform(profiles), correction)
    corrected.write(args.out)
    if args.save_fit:
        correction.save(args.save_fit)
    how = f"fitted on {'negative controls' if correction.fit_on == 'controls' else 'all wells'}"
    print(
        f"{len(corrected):,} wells x {corrected.width} features, {label(correction.method)}, {how}"
    )
    print(args.out)
    return {"out": args.out, "wells": len(corrected), "features": corrected.width,
            "method": correction.method, "fit_on": correction.fit_on}  # fmt: skip


def _run_together(
    args: argparse.Namespace, profiles: "Profiles", held_out: "np.ndarray"
) -> dict[str, Any]:
    """Correct with a chain that has no fit, such as Harmony."""
    from mae_jax.evaluation.corrections import correct, label

    if args.save_fit:
        raise InputError(
            f"{args.method} moves each well by all the others, so there is no fit to save; leave "
            "out --save-fit, and correct new wells together with these."
        )
    if args.dry_run:
        print(f"{len(profiles):,} wells x {profiles.width} features; nothing was written")
        return {"out": args.out, "dry_run": True, "wells": len(profiles)}
    corrected = correct(
        profiles,
        args.method,
        fit_on=args.fit_on,
        batch=args.batch,
        schema=column_schema(args),
        fit_rows=~held_out,
    )
    corrected.write(args.out)
    print(f"{len(corrected):,} wells x {corrected.width} features, {label(args.method)}")
    print(args.out)
    return {"out": args.out, "wells": len(corrected), "features": corrected.width,
            "method": args.method, "fit_on": args.fit_on}  # fmt: skip


def _run_stream(args: argparse.Namespace) -> dict[str, Any]:
    from mae_jax.evaluation.corrections import Correction
    from mae_jax.evaluation.out_of_core import StreamedProfiles, correct_stream, fit_stream

    if args.dry_run:
        raise InputError("--dry-run reads all wells at once; leave --stream out.")
    stream = StreamedProfiles(args.embeddings, options=read_options(args), notes=notes_of(args))
    if args.fitted:
        correction = Correction.load(args.fitted)
    else:
        schema = column_schema(args)
        correction = fit_stream(
            stream,
            args.method,
            fit_on=args.fit_on,
            batch=args.batch,
            schema=schema,
            holdout_controls=args.holdout_controls,
            holdout_treatments=args.holdout_treatments,
            seed=args.seed,
        )
    correct_stream(stream, correction, args.out)
    if args.save_fit:
        correction.save(args.save_fit)
    print(args.out)
    return {"out": args.out, "method": correction.method, "fit_on": correction.fit_on}
