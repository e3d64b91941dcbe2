"""A trace of some steps, for TensorBoard's profile page or Perfetto."""

from pathlib import Path

import jax


class Profiler:
    """Traces `count` steps from step `first` on into `folder`; nothing where `count` is 0."""

    def __init__(self, folder: Path, first: int, count: int) -> None:
        self._folder, self._first, self._last = folder, first, first + count
        self._running = False

    def before(self, step: int) -> None:
        """To be called before the step that follows `step` steps."""
        if self._running and step >= self._last:
            self.close()
        elif not self._running and self._first <= step < self._last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def close(self) -> None:
        """Writes what was traced, if the trace still runs."""
        if self._running:
            jax.effects_barrier()
            jax.profiler.stop_trace()
            self._running = False
