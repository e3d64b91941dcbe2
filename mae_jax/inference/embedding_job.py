"""The embedding job: every well of a screen through an encoder, once.

Three things run side by side: threads decode the wells to come, one thread puts their crops into
batches and sends these to the devices, and the main thread keeps the devices busy and collects
what they return, two batches behind them. Parts are written by one more thread.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from mae_jax.config import to_dict
from mae_jax.data.index import Index
from mae_jax.errors import InputError
from mae_jax.inference import parts
from mae_jax.inference.batch_encoder import Rows, Runner
from mae_jax.inference.batching import Batch, PartEnd, WellWork, batches
from mae_jax.inference.crop_embeddings import PartArrays
from mae_jax.inference.manifest import Manifest, claim, now, versions
from mae_jax.inference.output_store import Store
from mae_jax.inference.progress import EmbedReport, Progress
from mae_jax.inference.reading import BrokenWell, WellImages, in_background, read_ahead
from mae_jax.inference.shard_plan import Plan, make_plan
from mae_jax.inference.task_slice import Shard, find_shard, parse_shard
from mae_jax.networks.encoder import Encoder

_BEHIND = 2  # batches that the devices may have before the oldest is collected


def embed_index(
    encoder: Encoder,
    index: Index,
    out: str | os.PathLike[str],
    *,
    pooling: str = "mean",
    block: int | None = None,
    batch: int = 64,
    shard: Shard | str | None = None,
    channels: Sequence[str] | None = None,
    crop: int | None = None,
    part_wells: int = 64,
    crops: bool = False,
    tokens: bool = False,
    strict: bool = False,
    retry_skipped: bool = False,
    threads: int | None = None,
    memory: int = 2 << 30,
    devices: Sequence[jax.Device] | None = None,
    progress: bool = True,
) -> EmbedReport:
    """Embeds every well of an index (A.3: tile, encode each crop, mean over the crops).

    Run again after any interruption, or side by side as shards, it does what is not yet done.
    Within a part the numbers depend on the part's wells and on `batch` alone: they are the same
    to the bit for any shard, device count or restart on one machine, and the same to rounding
    for any `batch` and neighbours.

    Args:
      encoder: what turns crops into vectors.
      index: the screen.
      out: the embeddings folder or URL: `manifest.json`, `parts/*.parquet` with a row a well
        (`Metadata_*` strings, `Image_MAE_0000`… float32), `skipped.csv`.
      pooling: "class", "mean" (over patch tokens) or "channel" (a mean for each channel, one
        after the other; all wells must then have the same channels).
      block: the block whose output is pooled; None for the last.
      batch: crops a device and call.
      shard: this process's share, as `Shard` or "i/n"; None to ask what launched it.
      channels: channels to read, by name, from every site; None for all that the encoder takes.
      crop: the side of a crop in pixels; None for that of the encoder's training. (A baseline has
        none: fields smaller than its crop are taken whole.)
      part_wells: wells a part, which is what a killed process loses at most.
      crops: also keep the embedding of every crop, in `arrays/part-*.zarr.zip`.
      tokens: also keep the tokens of every crop there (large: crops × tokens × width × 4 bytes).
      strict: stop at the first well that cannot be read, instead of reporting and skipping it.
      retry_skipped: do those parts again in which wells were skipped.
      threads: decoding threads; None for one a processor, at least four.
      memory: about how many bytes of decoded pixels may wait.
      devices: devices to use; None for all of this process.
      progress: whether to show a bar.

    Raises:
      InputError: `out` belongs to another job, an option does not fit the encoder, or (strict) a
        well cannot be embedded.
    """
    encoder.check_pooling(pooling)
    if tokens and not hasattr(encoder, "tokens"):
        raise InputError(f"the encoder '{encoder.name}' has no tokens; leave --tokens out.")
    if batch < 1:
        raise InputError(f"a batch must have at least one crop, not {batch}.")
    if shard is None:
        shard, _ = find_shard()
    elif isinstance(shard, str):
        shard = parse_shard(shard)
    plan = make_plan(index, part_wells, channels, crop)
    plan, width = _settled(encoder, plan, pooling)
    store = Store(out)
    runner = Runner(
        encoder, pooling=pooling, block=block, batch=batch, devices=devices, tokens=tokens
    )
    outputs = [name for name, wanted in (("crops", crops), ("tokens", tokens)) if wanted]
    manifest = claim(store, _manifest(encoder, plan, pooling, block, outputs, batch))
    there = parts.finished(store)
    if retry_skipped:
        there -= parts.reported(store)
    mine = [part for part in shard.mine(plan.parts) if part not in there]
    already = len(shard.mine(plan.parts)) - len(mine)
    share = sum(_part_size(plan, part) for part in shard.mine(plan.parts))
    left = sum(_part_size(plan, part) for part in mine)
    name = "embedding" if shard.count == 1 else f"embedding {shard}"
    with Progress(share, share - left, name, progress) as bar:
        work = _Work(plan, store, manifest, runner, width, bar, strict, outputs)
        report = work.run(encoder, mine, threads, memory)
    parts.merge_skipped(store, plan.columns)
    report = replace(report, already=already, complete=len(parts.finished(store)) == plan.parts)
    if report.complete:
        store.sweep()
        # Once more: the sweep may have taken the report that another shard was just writing.
        parts.merge_skipped(store, plan.columns)
        _complete(store, manifest, plan)
    return report


class _Work:
    """The loop over batches, with what it needs at hand."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        manifest: Manifest,
        runner: Runner,
        width: int | None,
        bar: Progress,
        strict: bool,
        outputs: list[str],
    ) -> None:
        self.plan, self.store, self.runner, self.bar = plan, store, runner, bar
        self.width, self.strict, self.outputs = width, strict, outputs
        self.job = manifest.hash
        device = runner.devices[0]
        self.how = {
            "versions": versions(),
            "batch": runner.batch,
            "devices": f"{len(runner.devices)} × {device.device_kind} ({device.platform})",
        }
        self.arrays: PartArrays | None = None
        self.wells = self.skipped = self.crops = self.parts = 0

    def run(
        self, encoder: Encoder, mine: list[int], threads: int | None, memory: int
    ) -> EmbedReport:
        """Does the parts `mine`."""
        if not mine:
            return EmbedReport()
        start, waited = time.monotonic(), 0.0
        wells = (well for part in mine for well in self.plan.part(part))
        read = read_ahead(self.plan, encoder, wells, threads=threads, memory=memory)
        cut = batches(self._checked(read), self.runner.size)
        events = in_background(self._sent(cut), depth=2)
        flying: deque[tuple[Any, Batch] | PartEnd] = deque()
        writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        writing: list[Future[None]] = []
        try:
            while True:
                before = time.monotonic()
                event = next(events, None)
                if _idle(flying):
                    waited += time.monotonic() - before
                if event is None:
                    break
                if isinstance(event, PartEnd):
                    flying.append(event)
                else:
                    sent, batch = event
                    flying.append((self.runner(sent, batch.used), batch))
                    del sent, event
                while len(flying) > _BEHIND:
                    self._collect(flying.popleft(), writer, writing)
            while flying:
                self._collect(flying.popleft(), writer, writing)
            for task in writing:
                task.result()
        finally:
            events.close()  # type: ignore[attr-defined]
            writer.shutdown(wait=True, cancel_futures=True)
            if self.arrays is not None:
                self.arrays.discard()
        return EmbedReport(
            self.wells,
            self.skipped,
            self.crops,
            self.parts,
            seconds=time.monotonic() - start,
            waited=waited,
        )

    def _checked(
        self, read: Iterator[WellImages | BrokenWell]
    ) -> Iterator[WellImages | BrokenWell]:
        for item in read:
            if isinstance(item, BrokenWell) and self.strict:
                raise InputError(f"{item.well}: {item.reason}")
            yield item
            del item

    def _sent(self, cut: Iterator[Batch | PartEnd]) -> Iterator[tuple[Rows, Batch] | PartEnd]:
        for event in cut:
            if isinstance(event, PartEnd):
                yield event
            else:
                sent = self.runner.put(event.pixels)
                event.pixels = event.pixels[:0]  # the device has it now
                yield sent, event
                del sent
            del event

    def _collect(
        self,
        item: tuple[Any, Batch] | PartEnd,
        writer: ThreadPoolExecutor,
        writing: list[Future[None]],
    ) -> None:
        """Waits for a batch and gives its rows to their wells; has a finished part written."""
        if isinstance(item, PartEnd):
            for task in writing:  # at most one part waits to be written
                task.result()
            arrays, self.arrays = self.arrays, None
            writing[:] = [writer.submit(self._write, item, arrays)]
            self.parts += 1
            unread = len(item.broken)  # these were not counted when their crops came
            self._drop_infinite(item)
            for broken in item.broken:
                self.skipped += 1
                self.bar.say(f"skipped {broken.well}: {broken.reason}")
            self.bar.skip(unread)
            return
        (on_device, token_array), batch = item
        vectors = np.asarray(on_device)
        token_rows = None if token_array is None else np.asarray(token_array)
        for span in batch.spans:
            work, rows = span.work, slice(span.row, span.row + span.count)
            if work.vectors is None:
                work.vectors = np.full((work.missing, vectors.shape[1]), np.nan, np.float32)
                if token_rows is not None:
                    work.tokens = np.empty((work.missing, *token_rows.shape[1:]), np.float32)
            crops = slice(span.crop, span.crop + span.count)
            work.vectors[crops] = vectors[rows]
            if token_rows is not None:
                assert work.tokens is not None
                work.tokens[crops] = token_rows[rows]
            work.missing -= span.count
            if work.missing == 0:
                self._well(work)

    def _drop_infinite(self, end: PartEnd) -> None:
        """Moves wells whose embedding is not a number to the broken ones."""
        for work in list(end.works):
            if not np.isfinite(work.mean()).all():
                broken = BrokenWell(work.well, "its embedding has values that are not finite.")
                if self.strict:
                    raise InputError(f"{work.well}: {broken.reason}")
                end.works.remove(work)
                end.broken.append(broken)
                self.wells -= 1

    def _well(self, work: WellWork) -> None:
        self.wells += 1
        self.crops += len(work.places)
        self.bar.well(len(work.places))
        if "tokens" in self.outputs:
            if self.arrays is None:
                self.arrays = self._open_arrays(work.well.part)
            self.arrays.add_tokens(work)
            work.tokens = None

    def _open_arrays(self, part: int) -> PartArrays:
        return PartArrays(self.store, part, self.plan.columns, self.job)

    def _write(self, end: PartEnd, arrays: PartArrays | None) -> None:
        if self.outputs:
            arrays = arrays or self._open_arrays(end.part)
            arrays.finish(end.works, "crops" in self.outputs)
        means = [work.mean() for work in end.works]
        if means:
            features = np.stack(means)
        else:
            features = np.zeros((0, self.width or 0), np.float32)
        parts.write_part(
            self.store,
            end.part,
            job=self.job,
            run={
                **self.how,
                "written": now(),
                "wells": len(end.works),
                "skipped": len(end.broken),
                "crops": sum(len(work.places) for work in end.works),
            },
            columns=self.plan.columns,
            metadata=[work.well.metadata for work in end.works],
            features=features,
            skipped=[parts.Skipped(item.well.metadata, item.reason) for item in end.broken],
        )


def _idle(flying: Sequence[tuple[Any, Batch] | PartEnd]) -> bool:
    """Whether the devices have done all they were given; not before they were given anything."""
    given = [item[0][0] for item in flying if not isinstance(item, PartEnd)]
    return bool(given) and all(vectors.is_ready() for vectors in given)


def _part_size(plan: Plan, part: int) -> int:
    return min(plan.part_wells, plan.wells - part * plan.part_wells)


def _settled(encoder: Encoder, plan: Plan, pooling: str) -> tuple[Plan, int | None]:
    """The plan, and the number of features of every well (None if no well can be embedded).

    Where features depend on the channels, the plan's become those that most sites have, if no
    site has others: the wells that lack some of them are then reported one by one.
    """
    kinds: Counter[tuple[str, ...]] = Counter()
    for names, sites in Counter(names for names, _ in plan.index.sites).items():
        wanted = names if plan.channels is None else plan.channels
        try:
            kinds[encoder.order_channels(wanted)] += sites
        except InputError:
            continue  # these wells will be reported one by one
    widths = {encoder.width(len(names), pooling) for names in kinds}
    if len(kinds) > 1 and (pooling == "channel" or len(widths) > 1):
        usual = kinds.most_common(1)[0][0]
        for names in kinds:
            if not set(names) <= set(usual):
                raise InputError(
                    f"features of '{encoder.name}' (pooling '{pooling}') need the same channels "
                    f"in every well, but some have {', '.join(usual)} and others "
                    f"{', '.join(names)}; name those to use with --channels."
                )
        return replace(plan, channels=usual), encoder.width(len(usual), pooling)
    return plan, next(iter(widths), None)


def _manifest(
    encoder: Encoder,
    plan: Plan,
    pooling: str,
    block: int | None,
    outputs: list[str],
    batch: int,
) -> Manifest:
    return Manifest(
        job={
            "encoder": encoder.name,
            "preprocessing": to_dict(encoder.preprocessing),
            "fingerprint": encoder.fingerprint,
            "crop": plan.crop or encoder.preprocessing.crop,
            "pooling": pooling,
            "block": block,
            "channels": None if plan.channels is None else list(plan.channels),
            "outputs": outputs,
            "part_wells": plan.part_wells,
            "index": plan.fingerprint(),
        },
        settings={"architecture": encoder.architecture(), "batch": batch},
        versions=versions(),
        counts={"wells": plan.wells, "sites": plan.sites, "parts": plan.parts},
        created=now(),
    )


def _complete(store: Store, manifest: Manifest, plan: Plan) -> None:
    """Adds to the manifest what was done, once everything is."""
    done = {"embedded": 0, "skipped": 0, "crops": 0}
    for part in range(plan.parts):
        job, run = parts.part_notes(store, part)
        if job != manifest.hash:
            raise InputError(
                f"{store} holds part {part} of another job; remove that file and run again."
            )
        done["embedded"] += run["wells"]
        done["skipped"] += run["skipped"]
        done["crops"] += run["crops"]
    counts = {**manifest.counts, **done, "complete": True}
    store.write("manifest.json", replace(manifest, counts=counts).encode())
