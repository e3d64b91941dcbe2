"""`mae-jax embed`: every well of a screen through an encoder."""

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import add_screen, comma_list, screen
from mae_jax.cli.outputs import add_dry_run, add_overwrite
from mae_jax.cli.removed_options import removed_option

if TYPE_CHECKING:
    from mae_jax.data.index import Index
    from mae_jax.inference.task_slice import TaskSlice
    from mae_jax.networks.encoder import Encoder

HELP = "turn every well of a screen into an embedding with any encoder"
EXAMPLE = """\
  mae-jax embed --encoder runs/mine/model --index index.parquet --out embeddings/mine
  mae-jax embed --encoder morphem --recipe jump-lite --index index.parquet --out embeddings/morphem
  mae-jax embed --encoder intensity --index index.parquet --out embeddings/intensity
  mae-jax embed --encoder runs/mine/model --index index.parquet --out s3://bucket/mine \\
      --task 3/64 --batch-size 256
  mae-jax embed --encoder runs/mine/model --index index.parquet --out mine.h5ad --pooling channel
  mae-jax embed --encoder runs/mine/model --index index.parquet --out cells/mine --cells nuclei
`pandas.read_parquet("embeddings/mine")` reads the folder: one table per plate. The features are
Image_MAE_0000, … (with --pooling channel Image_MAE_DNA_0000, …): give pycytominer
image_features=True, or their names. Names that begin with "_" are the job's own.
After any interruption, the same command does what is not yet done. In a Kubernetes Indexed Job, a
SLURM array or under jax.distributed each process detects its own slice of the work."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from mae_jax.inference.job_defaults import BATCH_SIZE, MEMORY, WELLS_PER_SHARD

    add = parser.add_argument
    encoder = (
        "a published encoder (openphenom, morphem, …; `mae-jax models`), a saved model, a "
        "training's work folder, a file of weights, or a baseline: intensity, random"
    )
    add("--encoder", required=True, metavar="PATH_OR_NAME", help=encoder)
    add_screen(parser)
    out = (
        "the embeddings folder, on a local disk, s3:// or gs://; or a file .h5ad, .zarr, .csv or "
        ".parquet, whose folder of the same name without ending holds the job"
    )
    add("--out", required=True, metavar="FOLDER_OR_FILE", help=out)
    recipe = (
        "how a published encoder is used: channels, clipping, tiles, pooling, mean or median over "
        "them; own (the default), jump-lite, …; with a file of its weights MODEL/RECIPE"
    )
    add("--recipe", metavar="NAME", help=recipe)
    pooling = (
        "the class token, the mean over patches, one vector per channel, or attention (SubCell); "
        "default: the recipe's, else mean"
    )
    add("--pooling", choices=("class", "mean", "channel", "attention"), help=pooling)
    add("--block", type=int, help="pool the tokens after this block (default: the last)")
    dtype = "type of matrix products; bfloat16 is faster and less exact (default: the model's own)"
    add("--dtype", choices=("float32", "bfloat16"), help=dtype)
    batch_size = f"per-device batch size ({BATCH_SIZE})"
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help=batch_size)
    channels = (
        "channels to read, comma-separated (default: all that the encoder takes); AGP=WGA says "
        "that the encoder's AGP is this screen's WGA, where names and synonyms do not tell"
    )
    add("--channels", type=comma_list, action="extend", metavar="NAME[=CHANNEL],…", help=channels)
    add("--crop", type=int, help="crop side in pixels (default: that of the encoder's training)")
    cells = (
        "one crop around each cell: 'nuclei' detects them on the DNA stain; or a table with plate, "
        "well, site, y and x in pixels; or label images, masks/{Metadata_Well}_{Metadata_Site}.tif"
        ". Writes OUT_cells.h5ad, one row per cell; a well is the mean of its cells"
    )
    add("--cells", metavar="SOURCE", help=cells)
    add("--nucleus-diameter", type=float, metavar="PIXELS", help="of a usual nucleus, for "
        "--cells nuclei (default: from each image)")  # fmt: skip
    add("--task", metavar="I/N", help="do slice I of N of the shards, counted from 0")
    tasks = "the number of tasks, if the launcher does not export it"
    add("--num-tasks", type=int, metavar="N", help=tasks)
    shard = f"wells per shard, which is what a killed process loses at most ({WELLS_PER_SHARD})"
    add("--wells-per-shard", type=int, default=WELLS_PER_SHARD, metavar="N", help=shard)
    add("--crops", action="store_true", help="also keep the embedding of every crop (Zarr)")
    add("--tokens", action="store_true", help="also keep all tokens of every crop (Zarr, large)")
    add("--strict", action="store_true", help="stop at the first well that cannot be read")
    add("--retry-skipped", action="store_true", help="try again the wells that were skipped")
    add("--threads", type=int, help="decoding threads (default: one per CPU, at least 4)")
    memory = f"decoded pixels that may wait ({MEMORY / 1e9:g})"
    add("--memory", type=float, default=MEMORY / 1e9, metavar="GB", help=memory)
    add_dry_run(parser)
    add_overwrite(parser)
    removed_option(parser, "--batch", "--batch-size")
    removed_option(parser, "--part-wells", "--wells-per-shard")
    removed_option(parser, "--shard", "--task")
    removed_option(parser, "--anndata", reason="is gone: give --out NAME.h5ad or NAME.zarr")
    removed_option(parser, "--shards", "--num-tasks")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Load encoder and index, and do this process's slice."""
    from mae_jax.data.cells import open_cells
    from mae_jax.data.readers.open_screen import open_screen
    from mae_jax.embeddings.cells import write_cells
    from mae_jax.embeddings.manifest import delete_embeddings
    from mae_jax.embeddings.table_files import export_embeddings, split_ending
    from mae_jax.encoders import load_encoder
    from mae_jax.errors import InputError
    from mae_jax.inference import detect_task_slice, embed_index, parse_task_slice

    if args.task is not None and args.num_tasks is not None:
        raise InputError("--task I/N includes the number of tasks; leave --num-tasks out.")
    if args.task is not None:
        task, launcher = parse_task_slice(args.task), "--task"
    else:
        task, launcher = detect_task_slice(args.num_tasks)
    if task.count > 1:
        print(f"task {task} ({launcher})", file=sys.stderr)
    folder, file = split_ending(args.out)
    skipped = f"{folder}/_skipped.csv"
    encoder, index = (
        load_encoder(args.encoder, recipe=args.recipe, dtype=args.dtype),
        open_screen(screen(args)),
    )
    if args.overwrite and not args.dry_run:
        if task.count > 1:
            raise InputError("--overwrite is for one task alone; delete the folder beforehand.")
        delete_embeddings(folder)
    if args.dry_run:
        return _dry_run(args, encoder, index, task)
    cells = None
    if args.cells is not None:
        cells = open_cells(args.cells, index, diameter=args.nucleus_diameter)
    report = embed_index(
        encoder,
        index,
        folder,
        pooling=args.pooling,
        block=args.block,
        batch_size=args.batch_size,
        task=task,
        channels=args.channels,
        crop=args.crop,
        cells=cells,
        wells_per_shard=args.wells_per_shard,
        save_crops=args.crops,
        save_tokens=args.tokens,
        strict=args.strict,
        retry_skipped=args.retry_skipped,
        threads=args.threads,
        memory=int(args.memory * 1e9),
        progress=not args.quiet,
    )
    print(report)
    for message in report.quarantined:
        print(message, file=sys.stderr)
    if report.skipped:
        print(f"reasons for skipped wells: {skipped}")
    if report.skipped and not report.wells:
        raise InputError(f"no well could be embedded; the first one is {report.first_skipped}")
    if report.complete and not report.total_wells:
        raise InputError(f"no well could be embedded; {skipped} has the reasons.")
    if file is not None and report.complete:
        export_embeddings(folder, file)
    if cells is not None and report.complete:
        print(f"one row per cell: {write_cells(folder)}")
    print(args.out if report.complete else folder)
    return {"out": args.out, "folder": folder, **dataclasses.asdict(report)}


def _dry_run(
    args: argparse.Namespace, encoder: "Encoder", index: "Index", task: "TaskSlice"
) -> dict[str, Any]:
    """Say what the job would do; everything but reading pixels is checked."""
    from mae_jax.inference.embedding_job import resolve_channels
    from mae_jax.inference.embedding_plan import make_plan
    from mae_jax.networks.channel_names import ChannelMatch

    pooling = args.pooling or encoder.default_pooling
    encoder.check_pooling(pooling)
    plan = make_plan(index, args.wells_per_shard, args.channels, args.crop)
    encoder.check_crop(plan.crop or encoder.preprocessing.crop)
    plan, width = resolve_channels(encoder, plan, pooling)
    shards = task.shards(plan.num_shards)
    wells = sum(map(plan.shard_size, shards))
    print(f"{encoder}")
    if plan.matched:
        print(f"channels: {ChannelMatch(dict(plan.matched)).describe()}")
    print(f"{wells} wells of {plan.num_sites} sites in {len(shards)} shards, task {task}")
    print(f"{width} features per well, to {args.out}; nothing was written")
    return {"out": args.out, "dry_run": True, "wells": wells, "sites": plan.num_sites,
            "shards": len(shards), "features": width}  # fmt: skip
