"""Asked to stop: SIGTERM and SIGINT, noted until the loop can save and end."""

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Notes SIGTERM and SIGINT, so that the loop can save and end; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.received = False
        self._before = {name: signal.signal(name, self._note)
                        for name in (signal.SIGTERM, signal.SIGINT)}  # fmt: skip

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True

    def requested(self, step: int) -> bool:
        """Whether all hosts should stop after `step`; they agree on the step."""
        if jax.process_count() > 1:
            self.received |= bool(multihost_utils.reached_preemption_sync_point(step))
        return self.received

    def restore(self) -> None:
        """Gives the signals back to whoever had them."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
