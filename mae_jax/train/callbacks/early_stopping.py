"""Early stopping of a run whose validation loss no longer falls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mae_jax.train.callbacks.base import Callback
from mae_jax.train.config import EarlyStoppingConfig
from mae_jax.train.evaluators import VALIDATION_LOSS

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class EarlyStopping(Callback):
    """Stops after `patience` evaluations in a row without a better validation loss.

    It evaluates on a schedule of its own, and its state is saved in the checkpoints, so that what
    is logged and which checkpoints are kept change nothing.

    Attributes:
      losses: all validation losses that counted.
    """

    blocking = True

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self._config = config
        self.every = config.every if config.patience else 0
        self.losses: list[float] = []

    def run(self, trainer: Trainer) -> None:
        loss = trainer.evaluate("validation").get(VALIDATION_LOSS)
        if loss is not None:
            self.losses.append(loss)
        if self.reached:
            trainer.stop("the validation loss no longer falls")

    @property
    def reached(self) -> bool:
        """Whether the run should stop."""
        return (
            0
            < self._config.patience
            <= num_without_improvement(self.losses, self._config.min_delta)
        )

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = list(state.get("losses", []))


def num_without_improvement(losses: Iterable[float], min_delta: float) -> int:
    """How many losses at the end are not better than the best before them; NaN is not better."""
    best, waited = float("inf"), 0
    for loss in losses:
        if loss < best * (1 - min_delta):
            best, waited = loss, 0
        else:
            waited += 1
    return waited
