"""Early stopping: the end of a run whose validation loss no longer falls."""

from collections.abc import Iterable

from mae_jax.train.config import EarlyStoppingConfig


class EarlyStopping:
    """Watches the validation losses of a run; `history` are those of its part before a restart.

    Attributes:
      reached: whether `patience` losses in a row were no better than the best before them.
    """

    def __init__(self, config: EarlyStoppingConfig, history: Iterable[float | int] = ()) -> None:
        self._config = config
        self._best = float("inf")
        self._waited = 0
        for loss in history:
            self.add(loss)

    def add(self, loss: float | int) -> None:
        """Takes one more loss; one that is not a number is no better."""
        if loss < self._best * (1 - self._config.min_delta):
            self._best, self._waited = float(loss), 0
        else:
            self._waited += 1

    @property
    def reached(self) -> bool:
        return 0 < self._config.patience <= self._waited
