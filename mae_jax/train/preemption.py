"""Preemption and interrupt signals, recorded until the loop can save and end."""

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopSignal:
    """Records SIGTERM and SIGINT, so that the loop can save and end; a second SIGINT interrupts.

    Attributes:
      received: whether the run should end.
      interrupted: whether that was by SIGINT (Ctrl-C), in this process.

    Among several hosts SIGTERM is JAX's: it makes all of them agree on the step to stop at, even
    where one host alone received it. SIGINT is passed on as SIGTERM there.
    """

    def __init__(self) -> None:
        self.received = False
        self._several = jax.process_count() > 1
        self._asked = 0
        self.interrupted = False
        names = (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT)
        self._before = {name: signal.signal(name, self._note) for name in names}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = number == signal.SIGINT
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.received = True

    def requested(self) -> bool:
        """Whether all hosts should stop now; call once per step on all hosts."""
        if self._several:
            # Counts on where the step's number may go back: the hosts agree on a coming count.
            self._asked += 1
            self.received = multihost_utils.reached_preemption_sync_point(self._asked)
        return self.received

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for name, handler in self._before.items():
            signal.signal(name, handler)
