"""Saves the state of a run, on schedule and when the run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mae_jax.train.callbacks.base import Callback
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.evaluators import VALIDATION_LOSS

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class Checkpointing(Callback):
    """Saves the state and those of all callbacks; the last of the callbacks."""

    blocking = True

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_run(self, trainer: Trainer) -> bool:
        return trainer.is_last or self._checkpoints.is_due(trainer.step)

    def run(self, trainer: Trainer) -> None:
        self._checkpoints.save(
            trainer.step,
            trainer.state,
            callbacks={callback.name: callback.state_dict() for callback in trainer.callbacks},
            loss=trainer.evaluations.get(VALIDATION_LOSS),
            force=trainer.is_last,
        )

    def on_step_end(self, trainer: Trainer) -> None:
        self._checkpoints.poll()

    def on_fit_end(self, trainer: Trainer) -> None:
        self._checkpoints.finish()
