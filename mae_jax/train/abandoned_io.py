"""Silence about the reads and writes that orbax abandons when one of many fails.

When one array of a checkpoint cannot be written (a full disk) or read (a damaged file), orbax ends
its event loop at once. Each of the other arrays then prints a traceback of its own, hundreds in
all, though the failure is reported in one sentence by `Checkpoints`.
"""

import gc
import logging
import sys
from collections.abc import Callable
from typing import Any


def silence_abandoned_io() -> None:
    """Drops what is logged and printed of abandoned reads and writes, and no more, for good."""
    # orbax logs every save at length, and every failure again.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    asyncio = logging.getLogger("asyncio")
    if not any(isinstance(f, _NotRetrieved) for f in asyncio.filters):
        asyncio.addFilter(_NotRetrieved())
    if not isinstance(sys.unraisablehook, _ClosedLoop):
        sys.unraisablehook = _ClosedLoop(sys.unraisablehook)


def collect_abandoned_io() -> None:
    """Frees abandoned reads and writes now, without their messages."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook


class _NotRetrieved(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()


class _ClosedLoop:
    """An unraisable hook that drops what comes from orbax's coroutines and their closed loop."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        from_orbax = code is not None and "orbax" in code.co_filename
        closed = unraisable.object is None and "loop is closed" in str(unraisable.exc_value)
        if not (from_orbax or closed):
            self._hook(unraisable)
