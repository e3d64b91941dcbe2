"""The loop of an embedding job: decode, batch, encode, collect and write, side by side.

Threads decode the next wells, one thread fills batches with their crops and sends these to the
devices, the main thread keeps the devices busy and collects their outputs, at most `MAX_IN_FLIGHT`
batches behind, and one more thread writes shards.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mae_jax.embeddings.crop_arrays import CropArrayWriter
from mae_jax.embeddings.manifest import package_versions, utc_now
from mae_jax.embeddings.shards import ShardFiles, ShardRun
from mae_jax.embeddings.skipped import SkippedWell, write_skipped
from mae_jax.errors import InputError
from mae_jax.inference.batch_encoder import BatchEncoder, DeviceBatch
from mae_jax.inference.crop_batches import Batch, ShardEnd, WellAccumulator, make_batches
from mae_jax.inference.embedding_plan import EmbeddingPlan
from mae_jax.inference.progress import EmbedReport, Progress
from mae_jax.inference.reading import UnreadableWell, WellImages, prefetch

# Columns that say what the embedding of a well was made of.
SITES, CROPS = "Metadata_Site_Count", "Metadata_Crop_Count"
CELLS = "Metadata_Cell_Count"  # instead of crops, where each is one cell
MISSING_CHANNELS = "Metadata_Missing_Channels"
MAX_IN_FLIGHT = 2  # batches that the devices may have before the oldest is collected


@dataclass(eq=False)
class _InFlight:
    """A batch on the devices, with the arrays that will hold its outputs."""

    batch: Batch
    embeddings: Any  # a JAX array, or one of the CPU pool: both have is_ready and __array__
    tokens: Any | None


class EmbeddingLoop:
    """Embeds wells shard by shard and writes every finished shard.

    Attributes:
      in_flight: batches on the devices, and ends of shards in between, oldest first.
      wells, skipped, crops, shards: counts so far.
    """

    def __init__(
        self,
        plan: EmbeddingPlan,
        files: ShardFiles,
        encoder: BatchEncoder,
        width: int | None,
        progress: Progress,
        *,
        names: Sequence[str] | None = None,
        usual_channels: Sequence[str] = (),
        strict: bool = False,
        save_crops: bool = False,
        save_tokens: bool = False,
        aggregation: str = "mean",
    ) -> None:
        """Prepare the loop.

        Args:
          plan: the wells and shards.
          files: the files to write.
          encoder: the encoder on its devices.
          width: the number of features, for shards without an embedded well.
          progress: the bar that counts wells.
          names: of the features; None: numbers.
          usual_channels: the channels of a well that lacks none, if some wells lack one.
          strict: raise at the first well that cannot be embedded.
          save_crops: also write the embeddings of single crops.
          save_tokens: also write the tokens of single crops.
          aggregation: of the crops of a well: "mean" or "median".
        """
        self.plan, self.files, self.encoder, self.progress = plan, files, encoder, progress
        self.width, self.names, self.strict = width, names, strict
        self.usual_channels = usual_channels
        self.save_crops, self.save_tokens = save_crops, save_tokens
        self.aggregation = aggregation
        device = encoder.devices[0]
        self.details = {
            "versions": package_versions(),
            "batch": encoder.batch_size,
            "devices": f"{len(encoder.devices)} × {device.device_kind} ({device.platform})",
        }
        self.in_flight: deque[_InFlight | ShardEnd] = deque()
        self.wells = self.skipped = self.crops = self.shards = 0
        self.first_skipped = ""
        self._arrays: CropArrayWriter | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._writes: list[Future[None]] = []

    def run(self, wells: Iterator[WellImages | UnreadableWell]) -> EmbedReport:
        """Embed `wells`, which come shard by shard, and write their shards."""
        start, idle = time.monotonic(), 0.0
        batches = make_batches(self._checked(wells), self.encoder.global_batch_size)
        events = prefetch(self._transferred(batches), depth=2)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        try:
            while True:
                before = time.monotonic()
                event = next(events, None)
                if self._devices_idle():
                    idle += time.monotonic() - before
                if event is None:
                    break
                if isinstance(event, ShardEnd):
                    self.in_flight.append(event)
                else:
                    on_device, batch = event
                    outputs = self.encoder(on_device, batch.num_crops)
                    self.in_flight.append(_InFlight(batch, *outputs))
                    del on_device, event
                while len(self.in_flight) > MAX_IN_FLIGHT:
                    self._collect_oldest()
            while self.in_flight:
                self._collect_oldest()
            self._wait_for_writes()
        finally:
            events.close()
            self._writer.shutdown(wait=True, cancel_futures=True)
            if self._arrays is not None:
                self._arrays.discard()
        return EmbedReport(
            self.wells,
            self.skipped,
            self.crops,
            self.shards,
            seconds=time.monotonic() - start,
            idle_seconds=idle,
            first_skipped=self.first_skipped,
        )

    def _checked(
        self, wells: Iterable[WellImages | UnreadableWell]
    ) -> Iterator[WellImages | UnreadableWell]:
        for images in wells:
            if isinstance(images, UnreadableWell) and self.strict:
                raise InputError(f"{images.well}: {images.reason}")
            yield images
            del images

    def _transferred(
        self, batches: Iterable[Batch | ShardEnd]
    ) -> Generator[tuple[DeviceBatch, Batch] | ShardEnd, None, None]:
        """Each batch with its pixels on the devices."""
        for event in batches:
            if isinstance(event, ShardEnd):
                yield event
            else:
                on_device = self.encoder.put(event.pixels)
                event.pixels = event.pixels[:0]  # frees the host's copy
                yield on_device, event
                del on_device
            del event

    def _devices_idle(self) -> bool:
        """Whether the devices have finished all batches, having had at least one."""
        batches = [item for item in self.in_flight if isinstance(item, _InFlight)]
        return bool(batches) and all(item.embeddings.is_ready() for item in batches)

    def _collect_oldest(self) -> None:
        item = self.in_flight.popleft()
        if isinstance(item, ShardEnd):
            self._end_shard(item)
            return
        embeddings = np.asarray(item.embeddings)
        tokens = None if item.tokens is None else np.asarray(item.tokens)
        for part in item.batch.slices:
            rows = slice(part.row, part.row + part.count)
            crops = slice(part.crop, part.crop + part.count)
            part.well.add(crops, embeddings[rows], None if tokens is None else tokens[rows])
            if part.well.num_pending == 0:
                self._end_well(part.well)

    def _end_well(self, well: WellAccumulator) -> None:
        self.wells += 1
        self.crops += len(well.coordinates)
        self.progress.add_well(len(well.coordinates))
        if self.save_tokens:
            assert well.tokens is not None
            if self._arrays is None:
                self._arrays = self._open_arrays(well.well.shard)
            self._arrays.add_tokens(
                well.well.number, well.well.metadata, well.channels, well.tokens
            )
            well.tokens = None

    def _end_shard(self, end: ShardEnd) -> None:
        self._wait_for_writes()  # at most one shard waits to be written
        unread = len(end.unreadable)  # not counted by the bar yet
        self._drop_non_finite(end)
        for unreadable in end.unreadable:
            self.skipped += 1
            message = f"{unreadable.well}: {unreadable.reason}"
            self.first_skipped = self.first_skipped or message
            self.progress.write(f"skipped {message}")
        self.progress.skip(unread)
        arrays, self._arrays = self._arrays, None
        assert self._writer is not None
        self._writes = [self._writer.submit(self._write, end, arrays)]
        self.shards += 1

    def _wait_for_writes(self) -> None:
        for write in self._writes:
            write.result()
        self._writes = []

    def _drop_non_finite(self, end: ShardEnd) -> None:
        """Move wells with NaN or infinity in their embedding to the unreadable ones."""
        for well in list(end.wells):
            if np.isfinite(well.aggregate()).all():
                continue
            unreadable = UnreadableWell(well.well, "its embedding has NaN or infinity.")
            if self.strict:
                raise InputError(f"{well.well}: {unreadable.reason}")
            end.wells.remove(well)
            end.unreadable.append(unreadable)
            self.wells -= 1

    def _open_arrays(self, shard: int) -> CropArrayWriter:
        return CropArrayWriter(self.files, shard, self.plan.columns)

    def _write(self, end: ShardEnd, arrays: CropArrayWriter | None) -> None:
        """Write all files of a shard, the Parquet file last: with it the shard is done."""
        sha256 = ""
        if self.save_crops or self.save_tokens:
            arrays = arrays or self._open_arrays(end.shard)
            try:
                sha256 = arrays.finish(
                    [well.well.metadata for well in end.wells],
                    [well.sites for well in end.wells],
                    [well.coordinates for well in end.wells],
                    _crop_embeddings(end.wells) if self.save_crops else None,
                    [well.labels for well in end.wells if well.labels is not None],
                )
            except BaseException:
                arrays.discard()
                raise
        skipped = [SkippedWell(item.well.metadata, item.reason) for item in end.unreadable]
        write_skipped(self.files, end.shard, self.plan.columns, skipped)
        vectors = [well.aggregate(self.aggregation) for well in end.wells]
        num_crops = sum(len(well.coordinates) for well in end.wells)
        self.files.write(
            end.shard,
            run=ShardRun(
                len(end.wells),
                len(skipped),
                num_crops,
                {**self.details, "written": utc_now()},
                sha256,
            ),
            columns=[*self.plan.columns, *self._own_columns()],
            metadata=[(*well.well.metadata, *self._own_values(well)) for well in end.wells],
            features=np.stack(vectors) if vectors else np.zeros((0, self.width or 0), np.float32),
            names=self.names,
        )

    def _own_columns(self) -> list[str]:
        """The columns that say what a well's embedding was made of; none in older formats."""
        if self.files.manifest.format < 3:
            return []
        count = CROPS if self.plan.cells is None else CELLS
        return [SITES, count, *[MISSING_CHANNELS] * bool(self.usual_channels)]

    def _own_values(self, well: WellAccumulator) -> list[str]:
        missing = [name for name in self.usual_channels if name not in well.channels]
        values = [str(len(well.sites)), str(len(well.coordinates)), " ".join(missing)]
        return values[: len(self._own_columns())]


def _crop_embeddings(wells: Sequence[WellAccumulator]) -> list[np.ndarray]:
    return [well.embeddings for well in wells if well.embeddings is not None]
