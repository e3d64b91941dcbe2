"""Batches as the step takes them: crops of one screen or several, on the devices."""

import logging
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from mae_jax.data import DatasetSpec, Index, crop_batches, label_codes, validation_crops
from mae_jax.distributed import mesh as meshes
from mae_jax.errors import InputError
from mae_jax.networks.task import Batch, Task
from mae_jax.train.config import DatasetConfig, TrainConfig

log = logging.getLogger(__name__)

Channels = tuple[str, ...] | None


class DeviceBatch(NamedTuple):
    """A batch on the devices, and the network's channels that its crops hold (None: all)."""

    batch: Batch
    channels: Channels


@runtime_checkable
class DataSource(Protocol):
    """Where batches come from: `TrainData`, or anything else with these two methods."""

    def training(self, start: int) -> Generator[DeviceBatch, None, None]:
        """The batches number `start`, `start + 1`, …, without end."""

    def validation(self) -> list[DeviceBatch]:
        """Fixed batches for the validation loss."""


class TrainData:
    """The crops of a run: endless batches for training, and fixed ones that are held out.

    Raises:
      InputError: an index lacks a channel, or has not as many labels as the network has classes.
    """

    def __init__(self, config: TrainConfig, task: Task, mesh: Mesh) -> None:
        self._config, self._task, self._mesh = config, task, mesh
        data = config.data
        one = DatasetConfig(name="", index=data.index, channels=task.channels)
        self._places: dict[str, Channels] = {}
        self._sets = [self._open_dataset(each) for each in data.datasets or (one,)]
        self._labels = label_codes(self._sets, data.label) if task.labelled else None
        if self._labels and len(self._labels.names) != task.model.classes:
            found = len(self._labels.names)
            raise InputError(
                f"{data.index} has {found} different {data.label}, but the network "
                f"{task.model.classes} classes; give --config.model.classes={found}."
            )

    def training(self, start: int) -> Generator[DeviceBatch, None, None]:
        """The batches of step `start`, `start + 1`, …; close it when it is no longer needed."""
        data = self._config.data
        found = crop_batches(
            self._sets,
            crop=self._task.crop,
            batch=data.batch,
            seed=self._config.seed,
            sampling=data.sampling,
            label=data.label,
            start_step=start,
            world=jax.process_count(),
            rank=jax.process_index(),
            workers=data.workers,
            cache_bytes=data.cache_bytes,
            max_unreadable_fraction=data.max_unreadable_fraction,
        )
        try:
            for crops in found:
                label = crops["label"] if self._labels else None
                yield self._to_device(crops["dataset"], crops["pixels"], label)
        finally:
            found.close()

    def validation(self) -> list[DeviceBatch]:
        """Fixed centre crops of experiments unseen in training; none where there are none."""
        data, ways = self._config.data, meshes.num_batch_shards(self._mesh)
        ready = []
        for number, one in enumerate(self._sets):
            sites = int((one.index.table["Metadata_Split"] == "validation").sum())
            crops = min(data.validation_crops // len(self._sets), sites) // ways * ways
            if not crops:
                log.warning(
                    "%s has %d validation sites for %d devices: no validation loss.",
                    one.name or data.index, sites, ways,
                )  # fmt: skip
                continue
            found = validation_crops(
                one.index,
                crop=self._task.crop,
                batch=min(crops, data.batch // self._config.optimizer.grad_accum_steps),
                channels=one.channels,
                limit=crops,
                world=jax.process_count(),
                rank=jax.process_index(),
            )
            for batch in found:
                # Whole batches alone, so that neither fillers nor a broken site's blank enter the
                # loss. Hosts leave out the same ones if they see the same files, as those of one
                # run do.
                if batch["mask"].all():
                    label = self._labels.codes[number][batch["row"]] if self._labels else None
                    ready.append(self._to_device(one.name, batch["pixels"], label))
        return ready

    def _open_dataset(self, one: DatasetConfig) -> DatasetSpec:
        index = Index.read(one.index)
        channels = one.channels or index.channels
        for name in channels:
            if name not in index.channels:
                raise InputError(
                    f"{one.index} has no channel '{name}' (it has {', '.join(index.channels)}); "
                    "set the channels of the model."
                )
        served = one.decoder_channels or channels
        unknown = [name for name in served if name not in self._task.channels]
        if unknown or len(served) != len(channels):
            raise InputError(
                f"{one.index}: the network knows no channel '{(unknown or served)[0]}' (it knows "
                f"{', '.join(self._task.channels)}); give data.datasets channels, or a decoder for "
                "each of them."
            )
        self._places[one.name] = None if served == self._task.channels else served
        return DatasetSpec(one.name, index, channels, one.weight)

    def _to_device(self, name: str, pixels: np.ndarray, label: np.ndarray | None) -> DeviceBatch:
        arrays: dict[str, Any] = {"pixels": pixels}
        if label is not None:
            arrays["label"] = label.astype(np.int32)
        return DeviceBatch(meshes.to_global_array(arrays, self._mesh), self._places[name])
