"""Speed: crops per second, and the share of the time that was spent waiting for data."""

import time


class Meter:
    """Crops per second, and the share of the time that was spent waiting for data."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._step: int | None = None
        self._since = self._began = time.monotonic()
        self._waited = 0.0

    def waiting(self) -> "Meter":
        return self

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waited += time.monotonic() - self._began

    def read(self, step: int) -> dict[str, float]:
        """The means since the last reading, which was at an earlier step."""
        now = time.monotonic()
        values: dict[str, float] = {}
        if self._step is not None:  # the first interval holds the compilation
            seconds = now - self._since
            values["speed/crops_per_second"] = self._batch * (step - self._step) / seconds
            values["speed/data_wait"] = self._waited / seconds
        self._since, self._step, self._waited = now, step, 0.0
        return values
