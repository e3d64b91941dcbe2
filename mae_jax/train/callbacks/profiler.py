"""A trace of some steps, for TensorBoard's profile page or Perfetto."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jax

from mae_jax.train.callbacks.base import Callback

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class Profiler(Callback):
    """Traces `count` steps after the first `start` into `folder`; nothing if `count` is 0."""

    def __init__(self, folder: Path, start: int, count: int) -> None:
        self._folder, self._start, self._end = folder, start, start + count
        self._running = False

    def on_step_start(self, trainer: Trainer) -> None:
        if self._running and trainer.step >= self._end:
            self.close()
        elif not self._running and self._start <= trainer.step < self._end:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def close(self) -> None:
        """Writes the trace, if it still runs."""
        if self._running:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._running = False
