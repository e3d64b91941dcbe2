"""`mae-jax fetch`: public data sets, or parts of them, with an index."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run

if TYPE_CHECKING:
    from mae_jax.data.fetch import FetchPlan

HELP = "download public data sets, or parts of them, with an index"
EXAMPLE = """\
  mae-jax fetch                                     # the data sets, with sizes and licences
  mae-jax fetch cpjump1 --num-plates 1 --num-sites 1 --out data/cpjump1
  mae-jax fetch jump --source source_4 --plate BR00117035 --well A01,B01 --out data/jump --dry-run
  mae-jax fetch jump-lite --codec jpegxl_lossy_d20 --out data/jump-lite
  mae-jax fetch rxrx3-core --num-plates 2 --out data/rxrx3-core --accept-licence
After any interruption, the same command resumes. Then: mae-jax embed --index OUT/index.parquet …
MAE_JAX_ENDPOINT_<NAME> replaces an address (names: mae_jax/data/fetch/endpoints.toml)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add("dataset", nargs="?", metavar="DATASET", help="its name; none: list all")
    add("--out", type=Path, metavar="FOLDER", help="the folder for images, tables and index")
    for level in ("source", "batch", "plate", "well", "site"):
        add(f"--{level}", type=comma_list, action="extend", default=[], metavar="NAME,…",
            help=f"take this {level}, or these")  # fmt: skip
    add("--num-plates", type=int, metavar="N", help="take N plates")
    add("--num-wells", type=int, metavar="N", help="take N wells per plate")
    add("--num-sites", type=int, metavar="N", help="take N sites per well")
    add("--codec", help="JUMP-lite's compression: jpegxl_lossy_mq (default), jpegxl_lossy_hq, "
        "jpegxl_lossy_d20 or zstd")  # fmt: skip
    add("--subset", help="CHAMMI-75's table: small (default) or train")
    add("--accept-licence", action="store_true", help="accept the terms of the data set's licence")
    add("--max-gb", type=float, default=100.0, metavar="GB", help="the most to download (100)")
    add("--threads", type=int, default=8, metavar="N", help="files downloaded concurrently (8)")
    add_dry_run(parser)


def run(args: argparse.Namespace) -> Any:
    """List the data sets, list the files of a selection, or download them."""
    from tqdm import tqdm

    from mae_jax.data.fetch import DATASETS, Selection, fetch, plan_fetch
    from mae_jax.data.fetch.job import dataset_named
    from mae_jax.errors import InputError

    if args.dataset is None:
        for dataset in DATASETS.values():
            print(f"{dataset.name:<11} {dataset.title}\n{'':<11} {dataset.size}; {dataset.licence}")
        return {"datasets": [_description(dataset) for dataset in DATASETS.values()]}
    dataset = dataset_named(args.dataset)
    names = {n: tuple(getattr(args, n)) for n in ("source", "batch", "plate", "well", "site")}
    selection = Selection(
        **names,
        num_plates=args.num_plates,
        num_wells=args.num_wells,
        num_sites=args.num_sites,
    )
    options = {n: v for n in ("codec", "subset") if (v := getattr(args, n)) is not None}
    print(f"{dataset.title}\nall of it: {dataset.size}; licence: {dataset.licence}", flush=True)
    if args.dry_run:
        plan = plan_fetch(args.dataset, None, selection, options=options, threads=args.threads)
        for file in plan.files:
            size = "" if file.size is None else f"{file.size:>12,} "
            print(f"{size}{file.path}")
        print(_words(plan))
        return {"sites": len(plan.sites.sites), "files": len(plan.files), "bytes": plan.bytes}
    if args.out is None:
        raise InputError("no folder is given; say where to download to with --out.")
    with tqdm(desc=dataset.name, unit="B", unit_scale=True, disable=args.quiet or None) as bar:

        def announce(plan: "FetchPlan", needed: int) -> None:
            bar.write(_words(plan) + f"; {needed / 1e9:,.2f} GB to download")
            bar.total = needed
            bar.refresh()

        index = fetch(
            args.dataset,
            args.out,
            selection,
            options=options,
            accept_licence=args.accept_licence,
            threads=args.threads,
            max_gb=args.max_gb,
            announce=announce,
            progress=bar.update,
        )
    path = args.out / "index.parquet"
    missing = args.out / "missing.csv"
    if missing.exists():
        print(f"sites without all their images are left out; {missing} lists them")
    print(f"{len(index)} sites of {len(index.wells())} wells: {path}")
    return {"index": str(path), "sites": len(index), "wells": len(index.wells())}


def _words(plan: "FetchPlan") -> str:
    unknown = sum(file.size is None for file in plan.files)
    more = f" and {unknown} files of unknown size" if unknown else ""
    absent = f"; {len(plan.absent)} files are missing on the server" if plan.absent else ""
    return (
        f"{len(plan.sites.sites)} sites, {len(plan.files)} files, {plan.bytes / 1e9:,.2f} GB"
        f"{more}{absent}"
    )


def _description(dataset: object) -> dict[str, str]:
    return {name: str(getattr(dataset, name)) for name in ("name", "title", "size", "licence")}
