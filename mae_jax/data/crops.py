"""Crops of sites: where to cut, how to flip, and the decoded sites that are kept in memory."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.data import array_record as records
from mae_jax.data import zarr_reader as arrays
from mae_jax.data.crash_log import reading
from mae_jax.data.image_uri import Locator
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError

Crop = Shaped[np.ndarray, "channels crop crop"]
Draws = Float[np.ndarray, "crops 4"]
# Given the pixels' type, the memory for a site's crops: (crops, channels, crop, crop).
Memory = Callable[[np.dtype], Shaped[np.ndarray, "crops channels crop crop"]]


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

    def start(self, row: int, draws: Draws, into: Memory) -> Callable[[], None]:
        """Begins to read one crop for each row of `draws`, into memory that `into` gives.

        The four draws from [0, 1) of a crop place it uniformly over the field (top, left) and
        flip it or not (up and down, left and right).

        Returns: a function that waits until the crops are in place.

        Raises (also when waiting):
          InputError: the site cannot be read, or is smaller than a crop.
        """
        site: Any = self.cache.get(row)
        if site is None:
            places = self.index.locators(row, self.channels)
            with reading(places[0].path):
                if all(arrays.in_array(place) and place.part("light") is None for place in places):
                    return self._windows(row, places, draws, into)
                if all(map(records.in_record, places)) and not self.cache.max_bytes:
                    site = read_planes(places)  # views of one record
                else:
                    site = read_site(self.index, row, self.channels)
                    self.cache.keep(row, site)
        crops = into(site[0].dtype)
        for crop, draw in zip(crops, draws, strict=True):
            top, left = self._corner(row, site[0].shape, draw)
            for plane, source in zip(crop, site, strict=True):
                plane[...] = source[top : top + self.crop, left : left + self.crop]
            _flip(crop, draw)
        return _nothing

    def waits(self, row: int) -> bool:
        """Whether to start reading the site takes time, be it for its bytes or for decoding."""
        return self.cache.get(row) is None and not self.index.zarr_metadata(row)

    def centre(self, row: int) -> Crop:
        """The crop in the middle of the field."""
        crops: list[np.ndarray] = []

        def into(kind: np.dtype) -> np.ndarray:
            crops.append(np.empty((1, len(self.channels), self.crop, self.crop), kind))
            return crops[0]

        self.start(row, np.array([[0.5, 0.5, 1.0, 1.0]]), into)()
        return crops[0][0]

    def _windows(
        self, row: int, places: Sequence[Locator], draws: Draws, into: Memory
    ) -> Callable[[], None]:
        paths = [place.path for place in places]
        metadata = self.index.zarr_metadata(row)
        opened = {
            path: arrays.open_array(path, self.cache.max_bytes, metadata)
            for path in dict.fromkeys(paths)
        }
        kinds = {(array.shape[-2:], array.dtype) for array in opened.values()}
        if len(kinds) > 1:
            raise InputError(f"{self.index.describe(row)} has channels of unlike sizes or types.")
        (shape, kind), *_ = kinds
        corners = [self._corner(row, shape, draw) for draw in draws]
        crops = into(kind)
        # All channels of one array are one request.
        step = len(paths) if len(opened) == 1 else 1
        requests = [slice(first, first + step) for first in range(0, len(paths), step)]
        waiting = [
            arrays.start_window(places[here], opened[paths[here.start]], top, left, crop[here])
            for crop, (top, left) in zip(crops, corners, strict=True)
            for here in requests
        ]

        def wait() -> None:
            with reading(places[0].path):
                for written in waiting:
                    written()
            for crop, draw in zip(crops, draws, strict=True):
                _flip(crop, draw)

        return wait

    def _corner(self, row: int, shape: Sequence[int], draw: np.ndarray) -> tuple[int, int]:
        height, width = shape
        if height < self.crop or width < self.crop:
            raise InputError(
                f"{self.index.describe(row)} has {height} × {width} pixels, less than a crop of "
                f"{self.crop} ({self.index.locators(row, self.channels)[0]})."
            )
        return int(draw[0] * (height - self.crop + 1)), int(draw[1] * (width - self.crop + 1))


def _nothing() -> None:
    """What is left to wait for once crops are in place."""


def _flip(crop: Crop, draw: np.ndarray) -> None:
    """Flips in place, as the last two draws say."""
    if draw[2] < 0.5:
        crop[...] = crop[:, ::-1]
    if draw[3] < 0.5:
        if crop.itemsize == 1 and crop.shape[2] % 8 == 0:
            # Reversing words of eight pixels, and the pixels in each, is twice as fast as one by
            # one.
            words = crop.view(np.uint64)
            words[...] = words[:, :, ::-1]
            words.byteswap(inplace=True)
        else:
            crop[...] = crop[:, :, ::-1]
