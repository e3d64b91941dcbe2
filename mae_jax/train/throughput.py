"""Throughput: crops and FLOPs per second, the wait for data, and goodput."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

BEGAN, USEFUL = "run/began", "run/useful_seconds"


class ThroughputTracker:
    """Measures the loop between two readings, and the whole run since its very first start.

    Args:
      batch: crops per step.
      flops: FLOPs per crop in a step, over all devices.
      devices: number of devices.
      peak: peak FLOP/s of one device, or None where it is unknown.
      history: the rows of metrics that earlier parts of the run wrote.
      clock: seconds that only increase; `wall_clock`: seconds since 1970.
    """

    def __init__(
        self,
        batch: int,
        flops: float,
        devices: int,
        peak: float | None,
        history: Sequence[dict[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._batch, self._flops, self._devices, self._peak = batch, flops, devices, peak
        self._clock, self._wall_clock = clock, wall_clock
        self._began = next((row[BEGAN] for row in history if BEGAN in row), wall_clock())
        useful = [row[USEFUL] for row in history if USEFUL in row]
        self._useful = useful[-1] if useful else 0.0
        self._step: int | None = None
        self._since = clock()
        self._spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, activity: str) -> Iterator[None]:
        """Times the body as "data", the wait for a batch, or as an activity that is no step.

        Of the latter ("evaluation", "Checkpointing", …) the steps before must have ended, not just
        have been dispatched.
        """
        began = self._clock()
        try:
            yield
        finally:
            self._spent[activity] += self._clock() - began

    def read(self, step: int) -> dict[str, float]:
        """The means since the last reading, which was at an earlier step.

        "crops_per_second" and what follows from it count steps with their wait for data, but no
        evaluation, images or saving. "goodput" is the share of the time since the run's very first
        start that went to steps which the run still has, without any wait: time lost to compiling,
        restarts and repeated steps is in the denominator alone.
        """
        now = self._clock()
        waited = self._spent.pop("data", 0.0)
        seconds = max(now - self._since - sum(self._spent.values()), 1e-9)
        values: dict[str, float] = {}
        if self._step is not None:  # the first interval holds the compilation
            crops = self._batch * (step - self._step) / seconds
            achieved = crops * self._flops / self._devices
            values["speed/crops_per_second"] = crops
            values["speed/tflops_per_device"] = achieved / 1e12
            if self._peak:
                values["speed/mfu"] = achieved / self._peak
            values["speed/data_wait"] = waited / seconds
            self._useful += max(seconds - waited, 0.0)
        # At most 1, also where the clock was set back since the start.
        elapsed = max(self._wall_clock() - self._began, self._useful, 1e-9)
        values["speed/goodput"] = self._useful / elapsed
        values[USEFUL] = self._useful
        self._since, self._step = now, step
        self._spent.clear()
        return values
