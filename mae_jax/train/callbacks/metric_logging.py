"""Writes metrics with the writers of the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mae_jax.train.callbacks.base import Callback

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class MetricLogging(Callback):
    """Hands all metrics to `trainer.writer`, which writes on the first host alone."""

    def on_metrics(self, trainer: Trainer, step: int, metrics: Mapping[str, float]) -> None:
        trainer.writer.write_scalars(step, metrics)
