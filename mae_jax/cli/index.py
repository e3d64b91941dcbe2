"""`mae-jax index`: one index of a screen's images and metadata, and a check of all of them."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run, add_overwrite, check_output
from mae_jax.cli.reading_options import add_reading_options, open_sources
from mae_jax.cli.removed_options import removed_option
from mae_jax.errors import InputError, MachineError

if TYPE_CHECKING:
    import pandas as pd

    from mae_jax.data.index import Index

HELP = "make one index (parquet) of a screen's images and metadata, and check them"
EXAMPLE = """\
  mae-jax index screen                      # what would be read; nothing is written
  mae-jax index screen --pattern '{Metadata_Plate}/{Metadata_Well}_{Metadata_Site}_{channel}.tif' \\
      --out index.parquet
  mae-jax index screen/load_data.csv --out index.parquet --validation Batch7 --check
  mae-jax index plate/Images --format harmony --channel-names Mito,AGP,RNA,ER,DNA \\
      --metadata platemap.csv --metadata-value Experiment=Batch1 --out index.parquet
  mae-jax index index.parquet --check --report findings.csv
"""


_SHOWN = 5  # plates that are named


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("--out", help="where to write the index (parquet)")
    add_reading_options(parser)
    parser.add_argument(
        "--validation",
        type=comma_list,
        action="extend",
        default=[],
        metavar="EXPERIMENT,…",
        help="experiments for validation, or a fraction of them such as 0.2",
    )
    parser.add_argument(
        "--validation-plate",
        type=comma_list,
        action="extend",
        default=[],
        metavar="PLATE,…",
        help="plates for validation, where there is one experiment only",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="open every image; list all findings: damage, saturation, focus, empty fields, edges",
    )
    parser.add_argument(
        "--report",
        metavar="CSV",
        help="write the findings of the check here, and the quality of every site beside it "
        "(NAME_sites.csv): focus, sharpness, saturation, nuclei, edge effects",
    )
    removed_option(parser, "--set", "--metadata-value")
    removed_option(parser, "--problems", "--report")
    parser.add_argument("--threads", type=int, default=8, help="images opened concurrently (8)")
    add_dry_run(parser)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Makes the index, splits it, writes it and checks it, by the options."""
    from mae_jax.data.readers.registry import readers
    from mae_jax.data.splits import with_split
    from mae_jax.data.value_ranges import with_value_ranges

    if args.threads < 1:
        raise InputError(f"--threads is {args.threads}; give 1 or more.")
    check_output(args.out, args.overwrite)
    check_output(args.report, args.overwrite)
    formats, index = open_sources(args)
    if args.validation or args.validation_plate:
        fraction = _fraction(args.validation)
        table = with_split(
            index.table,
            experiments=() if fraction is not None else args.validation,
            fraction=fraction,
            plates=args.validation_plate,
        )
        index = replace(index, table=table)
    titles = [readers()[name].title for name in formats if name in readers()]
    print(f"format: {', '.join(formats)} ({'; '.join(titles)})")
    result: dict[str, Any] = {"format": formats, **_print_summary(index)}
    if args.dry_run:
        print("nothing was written")
        return {**result, "dry_run": True}
    if args.out:
        index = with_value_ranges(index)
        _print_ranges(index)
        print(f"wrote {index.write(args.out)}")
        result["out"] = args.out
    if args.check or args.report:
        _check(index, args)
        result["checked"] = True
    if not (args.out or args.check or args.report):
        print("nothing is written: add --out index.parquet if this is right, and --check to open "
              "every image")  # fmt: skip
    return result


def _fraction(names: list[str]) -> float | None:
    """The fraction of experiments, where one number is given instead of names: '0.2'."""
    if len(names) == 1 and "." in names[0]:
        try:
            return float(names[0])
        except ValueError:
            return None
    return None


def _print_summary(index: "Index") -> dict[str, Any]:
    table = index.table
    wells = index.wells()
    plates = wells.groupby(["Metadata_Experiment", "Metadata_Plate"], sort=False).size()
    unit = "wells" if index.has_plates else "samples"
    count = {
        "experiments": table["Metadata_Experiment"].nunique(),
        "plates": len(plates),
        unit: len(wells),
        "sites": len(table),
    }
    print(", ".join(f"{number} {name}" for name, number in count.items()))
    names = plates.index.get_level_values("Metadata_Plate")
    pairs = zip(names[:_SHOWN], plates[:_SHOWN], strict=True)
    shown = [f"{plate} ({number} {unit})" for plate, number in pairs]
    print(f"plates: {', '.join(shown)}{', …' * (len(plates) > _SHOWN)}")
    print(f"channels: {', '.join(index.channels)}")
    print(f"example: {index.describe(0)}")
    for channel, image in zip(*index.sites[0], strict=True):
        print(f"  {channel}: {image}")
    controls = table["Metadata_ControlType"].value_counts().to_dict()
    counts = [f"{name or 'treated'} {number}" for name, number in controls.items()]
    print(f"sites by control type: {', '.join(counts)}")
    held_out = table[table["Metadata_Split"] == "validation"]
    if len(held_out):
        experiments = sorted(held_out["Metadata_Experiment"].unique())
        print(f"validation: {len(held_out)} sites of experiment {', '.join(experiments)}")
    else:
        reason = " (there is one experiment only)" if count["experiments"] == 1 else ""
        print(f"validation: empty{reason}")
    return {**count, "channels": index.channels, "validation_sites": len(held_out)}


def _print_ranges(index: "Index") -> None:
    for channel, values in index.value_ranges.items():
        print(
            f"values of {channel}: {values.dtype}, {values.low:g} to {values.high:g}, "
            f"99.9 % below {values.p99_9:g}"
        )


def _print_quality(sites: "pd.DataFrame") -> None:
    blurred = sites.filter(like="QC_OutOfFocus_").any(axis=1)
    text = f"{int(sites['QC_Empty'].sum())} sites look empty, {int(blurred.sum())} out of focus"
    if "QC_NucleusCount" in sites.columns:
        counts = sites["QC_NucleusCount"].dropna()
        low, middle, high = (f"{value:.0f}" for value in counts.quantile([0.05, 0.5, 0.95]))
        text += f"; nuclei per site: median {middle}, 5 to 95 % from {low} to {high}"
    else:
        text += (
            "; nuclei are counted where a channel is named as a DNA stain (--channel-names) and "
            "scikit-image is installed"
        )
    print(text)


def _check(index: "Index", args: argparse.Namespace) -> None:
    from mae_jax.data.qc import check_index

    report = check_index(
        index, threads=args.threads, progress=sys.stderr.isatty() and not args.quiet
    )
    print()
    print(report.channels.to_string(index=False, float_format="{:.4g}".format))
    for finding in report.findings:
        print(f"{finding.level}: {finding.message}")
    _print_quality(report.sites)
    if args.report:
        path = Path(args.report)
        sites = path.with_name(f"{path.stem}_sites{path.suffix}")
        print(f"wrote {report.write_csv(path)} and {report.write_sites_csv(sites)}")
    if report.errors and all(f.category == "out of reach" for f in report.errors):
        raise MachineError(f"{len(report.errors)} images are out of reach, as listed above.")
    if report.errors:
        count = len(report.errors)
        summary = f"{count} errors are" if count > 1 else "1 error is"
        raise InputError(f"{summary} listed above; fix the files or exclude them from the index.")
    print("check passed: every image opens")
