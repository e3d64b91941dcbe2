"""Crops of sites: where to cut, how to flip, and the decoded sites that are kept in memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from mae_jax.data import arrays, records
from mae_jax.data.crashes import reading
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.index import Index
from mae_jax.data.locators import Locator
from mae_jax.errors import InputError

ATTEMPTS = 20  # sites tried in place of a broken one
Crop = Shaped[np.ndarray, "channels crop crop"]


class SiteCache:
    """Decoded sites by row, up to a number of bytes; safe between threads.

    Once full it keeps what it holds: training visits every site once an epoch in a new random
    order, where throwing out the oldest would throw out what comes next as often as not.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._sites: dict[Any, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> np.ndarray | None:
        """The site kept under `key`, or None."""
        return self._sites.get(key)

    def keep(self, key: Any, site: np.ndarray) -> bool:
        """Keeps `site`, if there is room for it; says whether it is kept."""
        with self._lock:
            if key not in self._sites and self.bytes + site.nbytes <= self.max_bytes:
                self._sites[key] = site
                self.bytes += site.nbytes
        return self._sites.get(key) is site

    def __reduce__(self) -> tuple[Any, ...]:
        return SiteCache, (self.max_bytes,)  # a worker process starts with an empty one


@dataclass
class CropReader:
    """Cuts crops out of an index's sites; goes to worker processes by pickling.

    Sites in Zarr arrays are read by windows, asynchronously, and tensorstore keeps their chunks in
    as many bytes as `cache` may hold; all others are decoded whole and kept in `cache`.
    """

    index: Index
    channels: tuple[str, ...]
    crop: int
    cache: SiteCache = field(default_factory=lambda: SiteCache(0))

    def start(self, row: int, draws: np.ndarray) -> list[Callable[[], Crop]]:
        """Begins to read one crop for each row of `draws`; calling what it returns waits for it.

        The four draws from [0, 1) of a crop place it uniformly over the field (top, left) and
        flip it or not (up and down, left and right). A crop may be a view of something larger.

        Raises (also when waiting):
          InputError: the site cannot be read, or is smaller than a crop.
        """
        site: Any = self.cache.get(row)
        keeps = site is not None  # views of a site that is kept anyway cost no memory
        if site is None:
            places = self.index.locators(row, self.channels)
            with reading(places[0].path):
                if all(arrays.in_array(place) and place.part("light") is None for place in places):
                    return self._windows(row, places, draws)
                if all(map(records.in_record, places)) and not self.cache.max_bytes:
                    site = read_planes(places)  # views of one record
                else:
                    whole = read_site(self.index, row, self.channels)
                    keeps = self.cache.keep(row, whole)
                    site = whole
        crops = []
        for draw in draws:
            top, left = self._corner(row, site[0].shape[0], site[0].shape[1], draw)
            window = (slice(top, top + self.crop), slice(left, left + self.crop))
            if isinstance(site, np.ndarray):
                crop = site[:, *window] if keeps else site[:, *window].copy()
            else:
                crop = np.stack([plane[window] for plane in site])
            crops.append(_flipped(crop, draw))
        return [lambda crop=crop: crop for crop in crops]  # type: ignore[misc]

    def cached(self, row: int) -> bool:
        """Whether the site needs no reading."""
        return self.cache.get(row) is not None

    def centre(self, row: int) -> Crop:
        """The crop in the middle of the field."""
        middle = np.array([[0.5, 0.5, 1.0, 1.0]])
        return self.start(row, middle)[0]().copy()

    def _windows(
        self, row: int, places: Sequence[Locator], draws: np.ndarray
    ) -> list[Callable[[], Crop]]:
        height, width = arrays.plane_size(places[0], self.cache.max_bytes)
        waiting = []
        for draw in draws:
            top, left = self._corner(row, height, width, draw)
            planes = arrays.start_window(
                places, top, left, self.crop, self.crop, self.cache.max_bytes
            )
            waiting.append((planes, draw))

        def wait(planes: Callable[[], arrays.Planes], draw: np.ndarray) -> Crop:
            with reading(places[0].path):
                return _flipped(np.asarray(planes()), draw)

        return [lambda p=planes, d=draw: wait(p, d) for planes, draw in waiting]  # type: ignore[misc]

    def _corner(self, row: int, height: int, width: int, draw: np.ndarray) -> tuple[int, int]:
        if height < self.crop or width < self.crop:
            raise InputError(
                f"{self.index.describe(row)} has {height} × {width} pixels, less than a crop of "
                f"{self.crop} ({self.index.locators(row, self.channels)[0]})."
            )
        return int(draw[0] * (height - self.crop + 1)), int(draw[1] * (width - self.crop + 1))


def _flipped(window: np.ndarray, draw: np.ndarray) -> np.ndarray:
    if draw[2] < 0.5:
        window = window[:, ::-1]
    if draw[3] < 0.5:
        window = window[:, :, ::-1]
    return window


@dataclass(frozen=True)
class Planned:
    """A site to cut crops from, with all random numbers that this needs already drawn."""

    set: int
    row: int
    draws: Shaped[np.ndarray, "crops 4"]
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
    """Reads the crops of a batch's plans side by side, in `threads` threads of this process.

    A site that cannot be read gives way to another one of its set, drawn by the plan's own random
    number, so that it is the same one on any number of hosts and workers.
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
        started: list[Any] = [self._started(plan) for plan in plans]
        pixels, rows, problems = [], [], []
        for plan, waiting in zip(plans, started, strict=True):
            try:
                crops = [crop() for crop in (waiting() if callable(waiting) else waiting.result())]
                row = plan.row
            except InputError as problem:
                row, crops, met = self._instead(plan, str(problem))
                problems.append(met)
            pixels.extend(crops)
            rows.extend([row] * len(crops))
        kinds = sorted({str(crop.dtype) for crop in pixels})
        if len(kinds) > 1:
            raise InputError(
                f"a batch mixes images of types {', '.join(kinds)}, whose grey values mean "
                "different things; convert the screen to one type with `mae-jax pack`, or train "
                "on one type only."
            )
        return {
            "pixels": np.stack(pixels),
            "row": np.array(rows, np.int64),
            "set": np.array(plans[0].set),
            "problems": problems,
        }

    def close(self) -> None:
        """Ends the reading threads of this process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _started(self, plan: Planned) -> Any:
        reader = self.readers[plan.set]
        if self.threads < 2 or reader.cached(plan.row):
            return lambda: reader.start(plan.row, plan.draws)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads)
        return self._pool.submit(reader.start, plan.row, plan.draws)

    def _instead(self, plan: Planned, problem: str) -> tuple[int, list[Crop], list[str]]:
        reader, rows, problems = self.readers[plan.set], self.rows[plan.set], [problem]
        rng = np.random.default_rng(plan.spare)
        for _ in range(ATTEMPTS - 1):
            row = int(rows[rng.integers(len(rows))])
            try:
                return row, [crop() for crop in reader.start(row, plan.draws)], problems
            except InputError as another:
                problems.append(str(another))
        raise InputError(
            f"{ATTEMPTS} sites in a row could not be read, the last because: {problems[-1]} "
            "See them all with `mae-jax index --check`."
        )
