"""Speed: crops and FLOPs per second, what the time went to, and how much of it was useful."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class ThroughputTracker:
    """Measures the loop between two readings, and the whole run since its very first start.

    Args:
      batch: crops of one step.
      flops: of one crop in a step, over all devices.
      devices: how many share the work.
      peak: FLOP/s of one device, or None where it is not known.
      history: the rows that earlier parts of the run wrote, up to the step it goes on from.
    """

    def __init__(
        self,
        batch: int,
        flops: float,
        devices: int,
        peak: float | None,
        history: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._batch, self._flops, self._devices, self._peak = batch, flops, devices, peak
        self._began = next((row["run/began"] for row in history if "run/began" in row), time.time())
        useful = [row["run/useful_seconds"] for row in history if "run/useful_seconds" in row]
        self._useful = useful[-1] if useful else 0.0
        self._step: int | None = None
        self._since = time.monotonic()
        self._spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        """Counts the body's time as no step's: "data", or anything else ("validation", "save")."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] += time.monotonic() - began

    def read(self, step: int) -> dict[str, float]:
        """The means since the last reading, which was at an earlier step.

        "crops_per_second" and what follows from it count steps with their wait for data, but no
        validation, pictures or saving. "goodput" is the share of the time since the run's very
        first start that went to steps which the run still has, without any wait: time lost to
        compiling, restarts and steps done twice is in the denominator alone.
        """
        now = time.monotonic()
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
        values["speed/goodput"] = self._useful / max(time.time() - self._began, 1e-9)
        values["run/useful_seconds"] = self._useful
        self._since, self._step = now, step
        self._spent.clear()
        return values
