"""Filling batches: from plans, with all random numbers already drawn, to arrays of crops."""

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from mae_jax.data.crops import CropReader, Draws, Memory
from mae_jax.errors import InputError

ATTEMPTS = 20  # sites tried in place of a broken one
IN_FLIGHT = 128  # sites asked for before the first of them is waited for


@dataclass(frozen=True)
class Planned:
    """A site to cut crops from, with all random numbers that this needs already drawn."""

    set: int
    row: int
    draws: Draws
    spare: int  # seeds the choice of another site, should this one be broken


@dataclass(frozen=True)
class PlanCrops:
    """grain's random map: a row, or a set and a row of it, becomes a plan of crops."""

    crops_per_site: int = 1

    def random_map(self, element: Any, rng: np.random.Generator) -> Planned:
        number, row = element if isinstance(element, tuple) else (0, element)
        draws = rng.random((self.crops_per_site, 4))
        return Planned(int(number), int(row), draws, int(rng.integers(2**62)))

    __call__ = random_map


class FillBatch:
    """Reads the crops of a batch's plans side by side, straight into the batch's array.

    What needs decoding is decoded in `threads` threads of this process. A site that cannot be read
    gives way to another one of its set, drawn by the plan's own random number, so that it is the
    same one on any number of hosts and workers.
    """

    def __init__(
        self,
        readers: Sequence[CropReader],
        rows: Sequence[Int[np.ndarray, " rows"]],
        threads: int,
    ) -> None:
        self.readers, self.rows, self.threads = list(readers), list(rows), threads
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return FillBatch, (self.readers, self.rows, self.threads)

    def __call__(self, plans: Sequence[Planned]) -> dict[str, Any]:
        """{"pixels", "row", "set"} of the batch, and "problems": sentences on broken sites.

        Raises:
          InputError: no readable site is found in `ATTEMPTS` attempts, or types are mixed.
        """
        reader, each = self.readers[plans[0].set], len(plans[0].draws)
        memory = _BatchMemory(len(plans), each, len(reader.channels), reader.crop)
        rows = np.array([plan.row for plan in plans], np.int64)
        started: deque[tuple[int, Callable[[], None]]] = deque()
        broken: dict[int, str] = {}

        def finish() -> None:
            number, wait = started.popleft()
            try:
                wait()
            except InputError as problem:
                broken[number] = str(problem)

        for number, plan in enumerate(plans):
            if len(started) == IN_FLIGHT:
                finish()
            started.append((number, self._started(plan, functools.partial(memory.part, number))))
        while started:
            finish()
        problems: list[list[str]] = []
        if broken:
            memory.leave()
        for number, problem in broken.items():
            into = functools.partial(memory.part, number)
            rows[number], met = self._instead(plans[number], problem, into)
            problems.append(met)
        return {
            "pixels": memory.whole(),
            "row": np.repeat(rows, each),
            "set": np.array(plans[0].set),
            "problems": problems,
        }

    def close(self) -> None:
        """Ends the reading threads of this process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _started(self, plan: Planned, into: Memory) -> Callable[[], None]:
        """Starts to read a plan's crops; what goes wrong is raised when they are waited for."""
        reader = self.readers[plan.set]
        if self.threads > 1 and reader.waits(plan.row):
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads)
            future = self._pool.submit(reader.start, plan.row, plan.draws, into)
            return lambda: future.result()()
        try:
            return reader.start(plan.row, plan.draws, into)
        except InputError as problem:
            return functools.partial(_raise, problem)

    def _instead(self, plan: Planned, problem: str, into: Memory) -> tuple[int, list[str]]:
        reader, rows, problems = self.readers[plan.set], self.rows[plan.set], [problem]
        rng = np.random.default_rng(plan.spare)
        for _ in range(ATTEMPTS - 1):
            row = int(rows[rng.integers(len(rows))])
            try:
                reader.start(row, plan.draws, into)()
                return row, problems
            except InputError as another:
                problems.append(str(another))
        raise InputError(
            f"{ATTEMPTS} sites in a row could not be read, the last because: {problems[-1]} "
            "See them all with `mae-jax index --check`."
        )


class _BatchMemory:
    """The array of a batch, made when the first site says of which type its pixels are."""

    def __init__(self, sites: int, each: int, channels: int, crop: int) -> None:
        self._shape, self._each = (sites * each, channels, crop, crop), each
        self._pixels: np.ndarray | None = None
        self._kinds: set[str] = set()
        self._lock = threading.Lock()

    def part(self, site: int, kind: np.dtype) -> np.ndarray:
        """The part of the array that belongs to one site."""
        with self._lock:
            self._kinds.add(str(kind))
            if self._pixels is None:
                self._pixels = np.empty(self._shape, kind)
        if self._pixels.dtype != kind:
            return np.empty((self._each, *self._shape[1:]), kind)  # `whole` will refuse the batch
        return self._pixels[site * self._each : (site + 1) * self._each]

    def leave(self) -> None:
        """Moves elsewhere, so that a read which was given up can no longer write into the batch."""
        if self._pixels is not None:
            self._pixels = self._pixels.copy()

    def whole(self) -> np.ndarray:
        """The array, once all its parts are filled.

        Raises:
          InputError: the sites have pixels of unlike types.
        """
        if self._pixels is None or len(self._kinds) > 1:
            raise InputError(
                f"a batch mixes images of types {', '.join(sorted(self._kinds))}, whose grey "
                "values mean different things; convert the screen to one type with `mae-jax pack`, "
                "or train on one type only."
            )
        return self._pixels


def _raise(problem: InputError) -> None:
    raise problem
