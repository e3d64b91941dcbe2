"""Evaluators: metrics of the train state, each on a schedule of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mae_jax.train.callbacks.base import is_due

if TYPE_CHECKING:
    from mae_jax.train.train_data import DeviceBatch
    from mae_jax.train.trainer import Trainer

VALIDATION_LOSS = "validation/loss"


class Evaluator:
    """Computes metrics of the train state; subclass it and override `evaluate`.

    Attributes:
      every: steps between two evaluations; one more follows the last step.
    """

    every: int = 1000

    @property
    def name(self) -> str:
        """The name for `Trainer.evaluate`."""
        return type(self).__name__

    def should_run(self, trainer: Trainer) -> bool:
        """Whether to evaluate at `trainer.step`."""
        return is_due(trainer.step, trainer.num_steps, self.every)

    def evaluate(self, trainer: Trainer) -> Mapping[str, float]:
        """Metrics by name, such as "validation/accuracy"; called on all hosts."""
        raise NotImplementedError


class ValidationLoss(Evaluator):
    """The mean loss of the fixed validation crops; nothing if there are none."""

    name = "validation"

    def __init__(self, every: int) -> None:
        self.every = every

    def evaluate(self, trainer: Trainer) -> Mapping[str, float]:
        batches: list[DeviceBatch] = trainer.validation_batches
        if not batches:
            return {}
        state, fns = trainer.state, trainer.fns
        losses = [fns.evaluate(state.weights, state.model_state, *batch)[0] for batch in batches]
        return {VALIDATION_LOSS: float(np.mean([float(loss) for loss in losses]))}
