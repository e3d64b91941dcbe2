"""The embedding job: every well of a screen through an encoder, once."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax

from mae_jax.config import nearest
from mae_jax.data.cells import CellSource
from mae_jax.data.index import Index
from mae_jax.embeddings.crop_arrays import arrays_problem
from mae_jax.embeddings.manifest import (
    Manifest,
    create_or_verify,
    package_versions,
    read_manifest,
    utc_now,
)
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.plate_tables import write_plate_tables
from mae_jax.embeddings.shards import DamagedShardError, ShardFiles, ShardRun, feature_names
from mae_jax.embeddings.skipped import merge_skipped
from mae_jax.errors import InputError
from mae_jax.inference.batch_encoder import BatchEncoder
from mae_jax.inference.channel_columns import (
    describe_lacking,
    feature_channels,
    usual_channels,
)
from mae_jax.inference.embedding_loop import EmbeddingLoop
from mae_jax.inference.embedding_plan import EmbeddingPlan, make_plan
from mae_jax.inference.job_defaults import BATCH_SIZE, MEMORY, WELLS_PER_SHARD
from mae_jax.inference.progress import EmbedReport, Progress
from mae_jax.inference.reading import read_ahead
from mae_jax.inference.task_slice import TaskSlice, detect_task_slice, parse_task_slice
from mae_jax.networks.channel_names import ChannelMatch
from mae_jax.networks.encoder import Encoder

_MAX_REPAIRS = 3  # rounds of redoing damaged shards before the storage is blamed


def embed_index(
    encoder: Encoder,
    index: Index,
    out: str | os.PathLike[str],
    *,
    pooling: str | None = None,
    block: int | None = None,
    batch_size: int = BATCH_SIZE,
    task: TaskSlice | str | None = None,
    channels: Sequence[str] | None = None,
    crop: int | None = None,
    cells: CellSource | None = None,
    wells_per_shard: int = WELLS_PER_SHARD,
    save_crops: bool = False,
    save_tokens: bool = False,
    strict: bool = False,
    retry_skipped: bool = False,
    threads: int | None = None,
    memory: int = MEMORY,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> EmbedReport:
    """Embed every well of an index (A.3: tile, encode each crop, mean over the crops).

    An encoder that has a recipe is used as it says; `pooling`, `channels` and `crop` overrule it.

    Run again after any interruption, or as several tasks at once, it does what is not yet done.
    Within a shard the numbers depend on the shard's wells and on `batch_size` alone: they are the
    same to the bit for any task, number of devices or restart on one machine, and the same to
    rounding for any `batch_size` and neighbors. Once all shards are there, each is verified;
    damaged and surplus files are moved to `_quarantine/` and the shards done again; then the wells
    of each plate are written as one table.

    Args:
      encoder: turns crops into vectors.
      index: the screen.
      out: the embeddings folder or URL, which `pandas.read_parquet` reads once it is complete:
        one table per plate, `PLATE.parquet`, with one row per well: `Metadata_*`, the counts of
        sites and crops among them, and `Image_MAE_0000`… float32 (by channel
        `Image_MAE_DNA_0000`…). Names that begin with "_" are the job's own, among them
        `_manifest.json`, `_skipped.csv`, and `_shards/`, by which it resumes.
      pooling: "class", "mean" (over patch tokens), "channel" (one vector per channel,
        concatenated; all wells must then have the same channels), or another of the encoder's; None
        for that of its recipe, else "mean".
      block: the block whose output is pooled; None for the last.
      batch_size: per-device batch size.
      task: this process's slice of the shards, or "i/n"; None to detect it from the launcher.
      channels: channels to read, by name, from every site; None for all that the encoder takes.
        Channels are recognized by name or synonym (`networks.channel_names`); "AGP=WGA" says that
        the encoder's AGP is the screen's WGA.
      crop: crop side in pixels; None for that of the encoder's training. (A baseline has none:
        fields smaller than its crop are taken whole.)
      cells: where the cells are (`data.cells.open_cells`), for one crop around each instead of
        crops that cover the sites. The embedding of every cell is kept (`write_cells` makes one
        table of them); a well's is their mean.
      wells_per_shard: wells per shard, which is what a killed process loses at most.
      save_crops: also keep the embedding of every crop, in `_arrays/shard-*.zarr.zip`.
      save_tokens: also keep the tokens of every crop there (large: crops × tokens × width × 4 B).
      strict: stop at the first well that cannot be read, instead of reporting and skipping it.
      retry_skipped: redo the shards in which wells were skipped.
      threads: decoding threads; None for one per CPU, at least four.
      memory: about how many bytes of decoded pixels may wait.
      devices: devices to use; None for all of this process.
      progress: whether to show a bar.

    Raises:
      InputError: `out` belongs to another job or cannot be written to, an option does not fit the
        encoder, or (strict) a well cannot be embedded.
      MachineError: the disk is full or fails.
    """
    recipe = encoder.recipe
    pooling = pooling or encoder.default_pooling
    encoder.check_pooling(pooling)
    if save_tokens and not hasattr(encoder, "tokens"):
        raise InputError(f"the encoder '{encoder.name}' has no tokens; leave --tokens out.")
    if batch_size < 1:
        raise InputError(f"a batch must have at least one crop, not {batch_size}.")
    if task is None:
        task, _ = detect_task_slice()
    elif isinstance(task, str):
        task = parse_task_slice(task)
    plan = make_plan(index, wells_per_shard, channels, crop, cells)
    encoder.check_crop(plan.crop or encoder.preprocessing.crop)
    plan, width = resolve_channels(encoder, plan, pooling)
    store = OutputStore(out)
    save_crops = save_crops or cells is not None
    outputs = [name for name, saved in (("crops", save_crops), ("tokens", save_tokens)) if saved]
    manifest = create_or_verify(
        store, _manifest(encoder, plan, pooling, block, outputs, batch_size)
    )
    files = ShardFiles(store, manifest)
    usual = usual_channels(encoder, plan)
    names = feature_names(width, feature_channels(encoder, plan, pooling))
    if manifest.format < 3:  # resumed: as its other shards
        names = feature_names(width)
    on_devices = BatchEncoder(
        encoder,
        pooling=pooling,
        block=block,
        batch_size=batch_size,
        devices=devices,
        tokens=save_tokens,
    )

    def embed(shards: Sequence[int], bar: Progress) -> EmbedReport:
        """Embed and write some shards."""
        if not shards:
            return EmbedReport()
        wells = (well for shard in shards for well in plan.shard_wells(shard))
        loop = EmbeddingLoop(
            plan,
            files,
            on_devices,
            width,
            bar,
            names=names,
            usual_channels=usual,
            strict=strict,
            save_crops=save_crops,
            save_tokens=save_tokens,
            aggregation="mean" if recipe is None else recipe.aggregation,
        )
        return loop.run(read_ahead(plan, encoder, wells, threads=threads, memory=memory))

    done = files.completed() - (files.with_skipped() if retry_skipped else set())
    own = task.shards(plan.num_shards)
    to_do = [shard for shard in own if shard not in done]
    num_wells, num_left = (sum(map(plan.shard_size, shards)) for shards in (own, to_do))
    name = "embedding" if task.count == 1 else f"embedding {task}"
    with Progress(num_wells, num_wells - num_left, name, progress) as bar:
        if plan.matched:
            bar.write(f"channels: {ChannelMatch(dict(plan.matched)).describe()}")
        lacking = describe_lacking(encoder, plan, usual)
        for sentence in lacking:
            bar.write(sentence)
        report = replace(embed(to_do, bar), lacking=tuple(lacking))
        report = replace(report, already_done=len(own) - len(to_do))
        merge_skipped(files, plan.columns)
        for _ in range(_MAX_REPAIRS):
            if files.missing():
                return report
            runs, damaged = verify_shards(files, outputs)
            moved = [*_move_surplus(files), *_move_damaged(files, damaged)]
            for message in moved:
                bar.write(message)
            report = replace(report, quarantined=(*report.quarantined, *moved))
            if not damaged:
                break
            report = _sum(report, embed(sorted(damaged), bar))
        else:
            raise InputError(
                f"{out} has shards that are damaged again after they were redone, "
                f"{files.name(min(damaged))} first; check the disk or choose another --out."
            )
    store.clean_tmp()
    # Once more: the cleaning may have removed the report that another task was just writing.
    merge_skipped(files, plan.columns)
    tables = _plate_tables(files, read_manifest(store), report.shards > 0)
    counts = {
        **manifest.counts,
        "embedded": sum(run.wells for run in runs),
        "skipped": sum(run.skipped for run in runs),
        "crops": sum(run.crops for run in runs),
        "complete": True,
    }
    if manifest.format > 2:
        counts["tables"] = tables
    store.write(manifest.name, replace(manifest, counts=counts).encode())
    return replace(report, complete=True, total_wells=counts["embedded"])


def resolve_channels(
    encoder: Encoder, plan: EmbeddingPlan, pooling: str
) -> tuple[EmbeddingPlan, int]:
    """The plan with its channels, and the number of features.

    If features depend on the channels, the plan's become those that most sites have, provided no
    site has others: the wells that lack some of them are then reported one by one.

    Raises:
      InputError: no site has the channels that the encoder needs, or wells have different channels
        and none of the sets includes all others.
    """
    for name in plan.assigned:
        if name not in encoder.preprocessing.channels:
            known = encoder.preprocessing.channels
            if not known:
                raise InputError(
                    f"the encoder '{encoder.name}' takes any channels by the screen's own names; "
                    f"write {plan.assigned[name]} instead of {name}={plan.assigned[name]}."
                )
            raise InputError(
                f"the encoder '{encoder.name}' has no channel '{name}': {nearest(name, known)}"
            )
    sites_with: Counter[tuple[str, ...]] = Counter()
    problem: InputError | None = None
    for names, sites in Counter(names for names, _ in plan.index.sites).items():
        chosen = names if plan.channels is None else plan.channels
        try:
            ordered = encoder.select_channels(chosen, plan.assigned)
        except InputError as error:
            problem = error
            continue  # these wells will be reported one by one
        sites_with[ordered] += sites
    if not sites_with:
        assert problem is not None
        raise problem
    names = sites_with.most_common(1)[0][0]
    plan = replace(plan, matched=encoder.match_channels(names, plan.assigned).found)
    added = 0 if encoder.recipe is None else encoder.recipe.pad_channels
    widths = {encoder.width(max(len(names), added), pooling) for names in sites_with}
    if len(sites_with) > 1 and (pooling == "channel" or len(widths) > 1):
        usual = sites_with.most_common(1)[0][0]
        for names in sites_with:
            if not set(names) <= set(usual):
                raise InputError(
                    f"features of '{encoder.name}' (pooling '{pooling}') need the same channels "
                    f"in every well, but some have {', '.join(usual)} and others "
                    f"{', '.join(names)}; name those to use with --channels."
                )
        return replace(plan, channels=usual), encoder.width(max(len(usual), added), pooling)
    return plan, next(iter(widths))


def verify_shards(
    files: ShardFiles, outputs: Sequence[str]
) -> tuple[list[ShardRun], dict[int, str]]:
    """Read every shard: the records of the sound ones, and the reason for each damaged one."""

    def verify(shard: int) -> ShardRun | str:
        try:
            _, run = files.read(shard)
        except DamagedShardError as error:
            return error.reason
        if outputs and (reason := arrays_problem(files, shard, run)):
            return reason
        return run

    shards = sorted(files.completed())
    with ThreadPoolExecutor(4, thread_name_prefix="verify") as pool:
        results = dict(zip(shards, pool.map(verify, shards), strict=True))
    runs = [run for run in results.values() if isinstance(run, ShardRun)]
    return runs, {shard: text for shard, text in results.items() if isinstance(text, str)}


def _plate_tables(files: ShardFiles, before: Manifest, new_shards: bool) -> list[str]:
    """Write the table of each plate, unless they are there already; returns their names."""
    if before.format < 3:
        return []
    names = [str(name) for name in before.counts.get("tables", ())]
    if names and not new_shards and all(map(files.store.exists, names)):
        return names
    written = write_plate_tables(files)
    for name in set(names) - set(written):  # of a plate without wells now
        files.store.delete(name)
    return written


def _move_damaged(files: ShardFiles, damaged: dict[int, str]) -> list[str]:
    return [
        f"{reason}: moved to {files.quarantine(files.name(shard))} and done again."
        for shard, reason in damaged.items()
    ]


def _move_surplus(files: ShardFiles) -> list[str]:
    return [
        f"{files.store.full_path(name)} is not a shard of this job: moved to "
        f"{files.quarantine(name)}."
        for name in files.surplus()
    ]


def _sum(first: EmbedReport, second: EmbedReport) -> EmbedReport:
    """The report of two runs of the loop."""
    return replace(
        first,
        wells=first.wells + second.wells,
        skipped=first.skipped + second.skipped,
        crops=first.crops + second.crops,
        shards=first.shards + second.shards,
        seconds=first.seconds + second.seconds,
        idle_seconds=first.idle_seconds + second.idle_seconds,
        first_skipped=first.first_skipped or second.first_skipped,
    )


def _manifest(
    encoder: Encoder,
    plan: EmbeddingPlan,
    pooling: str,
    block: int | None,
    outputs: list[str],
    batch_size: int,
) -> Manifest:
    renamed = {own: name for own, name in plan.matched.items() if own != name}
    return Manifest(
        job={
            "encoder": encoder.name,
            "preprocessing": json.loads(encoder.preprocessing.fingerprint_text()),
            "fingerprint": encoder.fingerprint,
            "crop": plan.crop or encoder.preprocessing.crop,
            "pooling": pooling,
            "block": block,
            "channels": None if plan.channels is None else list(plan.channels),
            "outputs": outputs,
            "wells_per_shard": plan.wells_per_shard,
            "index": plan.fingerprint(),
            # Absent where there is nothing to say, as in manifests of earlier versions.
            **({"channels_matched": renamed} if renamed else {}),
            **({"recipe": encoder.recipe.record()} if encoder.recipe is not None else {}),
            **({"cells": plan.cells.record()} if plan.cells is not None else {}),
        },
        settings={"architecture": encoder.architecture(), "batch_size": batch_size},
        versions=package_versions(),
        counts={"wells": plan.num_wells, "sites": plan.num_sites, "shards": plan.num_shards},
        created=utc_now(),
    )
