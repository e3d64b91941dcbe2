"""Batches for the train step: crops of one dataset or several, on the devices."""

import logging
from collections.abc import Generator
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, Num

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
    """The crops of a run: endless batches for training, and fixed ones for validation.

    Raises:
      InputError: an index lacks a channel, or has another number of labels than the network has
        classes.
    """

    def __init__(self, config: TrainConfig, task: Task, mesh: Mesh) -> None:
        self._config, self._task, self._mesh = config, task, mesh
        data = config.data
        single = DatasetConfig(name="", index=data.index, channels=task.channels)
        self._channels: dict[str, Channels] = {}  # the network's, by dataset
        self._datasets = [self._open_dataset(each) for each in data.datasets or (single,)]
        self._labels = label_codes(self._datasets, data.label) if task.labelled else None
        if self._labels and len(self._labels.names) != task.model.classes:
            num_labels = len(self._labels.names)
            raise InputError(
                f"{data.index} has {num_labels} values of {data.label}, but the network has "
                f"{task.model.classes} classes; give --config.model.classes={num_labels}."
            )

    def training(self, start: int) -> Generator[DeviceBatch, None, None]:
        """The batches number `start`, `start + 1`, …; close it when it is no longer needed."""
        data = self._config.data
        batches = crop_batches(
            self._datasets,
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
            for batch in batches:
                label = batch["label"] if self._labels else None
                yield self._to_device(batch["dataset"], batch["pixels"], label)
        finally:
            batches.close()

    def validation(self) -> list[DeviceBatch]:
        """Fixed center crops of the validation split; [] if it has too few."""
        data, num_shards = self._config.data, meshes.num_batch_shards(self._mesh)
        ready = []
        for number, dataset in enumerate(self._datasets):
            sites = int((dataset.index.table["Metadata_Split"] == "validation").sum())
            limit = min(data.validation_crops // len(self._datasets), sites)
            limit = limit // num_shards * num_shards
            if not limit:
                log.warning(
                    "%s has %d validation sites for %d devices: no validation loss.",
                    dataset.name or data.index, sites, num_shards,
                )  # fmt: skip
                continue
            batches = validation_crops(
                dataset.index,
                crop=self._task.crop,
                batch=min(limit, data.batch // self._config.optimizer.grad_accum_steps),
                channels=dataset.channels,
                limit=limit,
                world=jax.process_count(),
                rank=jax.process_index(),
            )
            for batch in batches:
                # Whole batches only, so that neither padding nor the blank of an unreadable site
                # enters the loss. All hosts leave out the same ones, since they see the same files.
                if batch["mask"].all():
                    label = self._labels.codes[number][batch["row"]] if self._labels else None
                    ready.append(self._to_device(dataset.name, batch["pixels"], label))
        return ready

    def _open_dataset(self, config: DatasetConfig) -> DatasetSpec:
        index = Index.read(config.index)
        channels = config.channels or index.channels
        for name in channels:
            if name not in index.channels:
                raise InputError(
                    f"{config.index} has no channel '{name}' (it has {', '.join(index.channels)}); "
                    "set the channels of the model."
                )
        decoders = config.decoder_channels or channels
        unknown = [name for name in decoders if name not in self._task.channels]
        if unknown or len(decoders) != len(channels):
            raise InputError(
                f"{config.index}: the network has no channel '{(unknown or decoders)[0]}' (it has "
                f"{', '.join(self._task.channels)}); give data.datasets channels, or "
                "decoder_channels with one for each of them."
            )
        self._channels[config.name] = None if decoders == self._task.channels else decoders
        return DatasetSpec(config.name, index, channels, config.weight)

    def _to_device(
        self,
        dataset: str,
        pixels: Num[np.ndarray, "batch channels height width"],
        label: Int[np.ndarray, " batch"] | None,
    ) -> DeviceBatch:
        arrays = {"pixels": pixels}
        if label is not None:
            arrays["label"] = label.astype(np.int32)
        return DeviceBatch(meshes.to_global_array(arrays, self._mesh), self._channels[dataset])
