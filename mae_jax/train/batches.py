"""Batches as the step takes them: crops of the index, with labels where a network needs them."""

import logging
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from mae_jax.data import Index, crop_batches, validation_crops
from mae_jax.errors import InputError
from mae_jax.train import mesh as meshes
from mae_jax.train.config import TrainConfig
from mae_jax.train.tasks import Batch, Task

log = logging.getLogger(__name__)


class Crops:
    """The crops of a run: endless batches for training, and fixed ones that are held out.

    Raises:
      InputError: the index lacks a channel, or its labels are not as many as the classes.
    """

    def __init__(self, config: TrainConfig, task: Task, mesh: Mesh) -> None:
        self._config, self._task, self._mesh = config, task, mesh
        self._index = Index.read(config.data.index)
        missing = [name for name in task.channels if name not in self._index.channels]
        if missing:
            raise InputError(
                f"{config.data.index} has no channel '{missing[0]}' (it has "
                f"{', '.join(self._index.channels)}); set the channels of the model."
            )
        self._labels = self._numbered() if task.labelled else None

    def training(self, start: int) -> Iterator[Batch]:
        """This host's batches of step `start`, `start + 1`, …, as global arrays; close it."""
        data = self._config.data
        found = crop_batches(
            self._index,
            crop=self._task.crop,
            batch=data.batch,
            seed=self._config.seed,
            channels=self._task.channels,
            sampling=data.sampling,
            start_step=start,
            world=jax.process_count(),
            rank=jax.process_index(),
            workers=data.workers,
            cache_bytes=data.cache_bytes,
            max_broken=data.max_broken,
        )
        try:
            for crops in found:
                yield self._placed(crops)
        finally:
            found.close()

    def held_out(self) -> list[Batch]:
        """Fixed centre crops of experiments unseen in training; none where there are none."""
        data, hosts = self._config.data, jax.process_count()
        ways = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        sites = int((self._index.table["Metadata_Split"] == "validation").sum())
        crops = min(data.validation_crops, sites) // ways * ways
        if not crops:
            log.warning(
                "%s has %d validation sites for %d devices: no validation loss.",
                data.index, sites, ways,
            )  # fmt: skip
            return []
        found = validation_crops(
            self._index,
            crop=self._task.crop,
            batch=min(crops, data.batch // self._config.optimizer.accumulate),
            channels=self._task.channels,
            limit=crops,
            world=hosts,
            rank=jax.process_index(),
        )
        # Whole batches alone, so that neither fillers nor a broken site's blank enter the loss;
        # hosts leave out the same ones only if they see the same files, as those of one run do.
        return [self._placed(batch) for batch in found if batch["mask"].all()]

    def _placed(self, crops: dict[str, np.ndarray]) -> Batch:
        batch: dict[str, Any] = {"pixels": crops["pixels"]}
        if self._labels is not None:
            batch["label"] = self._labels[crops["row"]]
        return meshes.to_devices(batch, self._mesh)

    def _numbered(self) -> np.ndarray:
        """The class of each row of the index; -1 where training has no site of its label."""
        table, column = self._index.table, self._config.data.label
        if column not in table.columns:
            raise InputError(f"{self._config.data.index} has no column '{column}'; set data.label.")
        known = sorted(table.loc[table["Metadata_Split"] == "train", column].unique())
        if len(known) != self._task.model.classes:
            raise InputError(
                f"{self._config.data.index} has {len(known)} different {column} for training, but "
                f"the network {self._task.model.classes} classes; "
                f"give --config.model.classes={len(known)}."
            )
        return pd.Categorical(table[column], categories=known).codes.astype(np.int32)
