"""Ends a process that hangs, with the stacks of all its threads, so that the job is restarted."""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax

from mae_jax.errors import HANG
from mae_jax.train.callbacks.base import Callback

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer

log = logging.getLogger(__name__)


def end_process() -> None:
    """Ends at once: what hangs would also hang an orderly exit."""
    os._exit(HANG)


class HangWatchdog(Callback):
    """Ends the process if a step takes longer than `seconds`, waiting for its data included.

    The first step is not watched, since it holds the compilation; neither is anything between two
    steps (validation, saving). The stacks of all threads are written to stderr, and the process
    exits with the status `HANG`.

    Args:
      seconds: the limit; 0 watches nothing.
      end: what ends the process; for tests.
    """

    def __init__(self, seconds: float | int, end: Callable[[], None] = end_process) -> None:
        self._seconds, self._end = seconds, end
        self._first = True
        self._deadline: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def on_step_start(self, trainer: Trainer | None = None) -> None:
        if not self._first:
            self._deadline = time.monotonic() + self._seconds
        self._first = False

    def on_step_end(self, trainer: Trainer | None = None) -> None:
        self._deadline = None

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                log.critical(
                    "process %d: a step has not ended for %g seconds "
                    "(divergence.step_timeout_seconds), so this process ends; the same command "
                    "resumes from the last checkpoint. A host that died, or data that cannot be "
                    "read, may be the cause; stacks of all threads:",
                    jax.process_index(), self._seconds,
                )  # fmt: skip
                faulthandler.dump_traceback(2, all_threads=True)  # stderr itself
                self._end()
                return

    def close(self) -> None:
        self._deadline = None
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
