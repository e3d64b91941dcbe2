"""Crops of sites: where to cut, how to flip, and the decoded sites that are kept in memory."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.data import array_record, zarr_reader
from mae_jax.data.crash_log import track_open_file
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError

Crop = Shaped[np.ndarray, "channels crop crop"]
Draws = Float[np.ndarray, "crops 4"]
# Given the pixels' type, the memory for a site's crops: (crops, channels, crop, crop).
Allocate = Callable[[np.dtype], Shaped[np.ndarray, "crops channels crop crop"]]
_Site = np.ndarray | list[np.ndarray]  # (channels, height, width), or its planes


class SiteCache:
    """Decoded sites by row, up to a number of bytes; thread-safe.

    Nothing is evicted once it is full: training visits every site once an epoch in a new random
    order, where evicting the oldest would as often as not evict the next one needed.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._sites: dict[int, _Site] = {}
        self._lock = threading.Lock()

    def get(self, row: int) -> _Site | None:
        """The site stored under `row`, or None."""
        return self._sites.get(row)

    def put(self, row: int, site: np.ndarray) -> bool:
        """Stores `site` if there is room for it; returns whether it is stored."""
        with self._lock:
            if row not in self._sites and self.bytes + site.nbytes <= self.max_bytes:
                self._sites[row] = site
                self.bytes += site.nbytes
        return self._sites.get(row) is site

    def __reduce__(self) -> tuple[object, ...]:
        return SiteCache, (self.max_bytes,)  # a worker process starts with an empty one


@dataclass
class CropReader:
    """Cuts crops out of an index's sites; picklable for worker processes.

    Sites in Zarr arrays are read by windows, asynchronously, and tensorstore caches their chunks in
    as many bytes as `cache` may hold; all others are decoded whole and kept in `cache`.
    """

    index: Index
    channels: tuple[str, ...]
    crop: int
    cache: SiteCache = field(default_factory=lambda: SiteCache(0))

    def start(self, row: int, draws: Draws, allocate: Allocate) -> Callable[[], None]:
        """Starts to read one crop for each row of `draws`, into memory from `allocate`.

        The four draws from [0, 1) of a crop place it uniformly over the field (top, left) and
        flip it or not (up and down, left and right).

        Returns: a function that waits until the crops are filled.

        Raises (also when waiting):
          InputError: the site cannot be read, or is smaller than a crop.
          MachineError: the site is out of reach.
        """
        site = self.cache.get(row)
        if site is None:
            uris = self.index.image_uris(row, self.channels)
            with track_open_file(uris[0].path):
                if self._in_windows(row, uris):
                    return self._start_windows(row, uris, draws, allocate)
                if all(map(array_record.in_record, uris)) and not self.cache.max_bytes:
                    site = read_planes(uris)  # views of one record
                else:
                    site = read_site(self.index, row, self.channels)
                    self.cache.put(row, site)
        crops = allocate(site[0].dtype)
        for crop, draw in zip(crops, draws, strict=True):
            top, left = self._corner(row, site[0].shape, draw)
            for target, plane in zip(crop, site, strict=True):
                target[...] = plane[top : top + self.crop, left : left + self.crop]
            _flip(crop, draw)
        return _nothing

    def _in_windows(self, row: int, uris: Sequence[ImageURI]) -> bool:
        """Whether a row's crops are read alone, and not cut out of its whole planes."""
        if not all(zarr_reader.in_array(uri) and uri.get("illumination") is None for uri in uris):
            return False
        metadata = self.index.zarr_metadata(row)
        first = zarr_reader.open_array(uris[0].path, self.cache.max_bytes, metadata)
        return not first.one_chunk

    def blocks(self, row: int) -> bool:
        """Whether `start` takes long for a row, since the site is read or decoded in it."""
        return self.cache.get(row) is None and not self.index.zarr_metadata(row)

    def center(self, row: int) -> Crop:
        """The crop in the middle of the field."""
        crops: list[np.ndarray] = []

        def allocate(dtype: np.dtype) -> np.ndarray:
            crops.append(np.empty((1, len(self.channels), self.crop, self.crop), dtype))
            return crops[0]

        self.start(row, np.array([[0.5, 0.5, 1.0, 1.0]]), allocate)()
        return crops[0][0]

    def _start_windows(
        self, row: int, uris: Sequence[ImageURI], draws: Draws, allocate: Allocate
    ) -> Callable[[], None]:
        paths = [uri.path for uri in uris]
        metadata = self.index.zarr_metadata(row)
        handles = {
            path: zarr_reader.open_array(path, self.cache.max_bytes, metadata)
            for path in dict.fromkeys(paths)
        }
        sizes = {(handle.shape[-2:], handle.dtype) for handle in handles.values()}
        if len(sizes) > 1:
            raise InputError(
                f"{self.index.describe(row)} has channels of different sizes or types."
            )
        (shape, dtype), *_ = sizes
        corners = [self._corner(row, shape, draw) for draw in draws]
        crops = allocate(dtype)
        # All channels of one array are one request.
        step = len(paths) if len(handles) == 1 else 1
        slices = [slice(first, first + step) for first in range(0, len(paths), step)]
        pending = [
            zarr_reader.read_window_async(uris[s], handles[paths[s.start]], top, left, crop[s])
            for crop, (top, left) in zip(crops, corners, strict=True)
            for s in slices
        ]

        def wait() -> None:
            with track_open_file(uris[0].path):
                for wait_for_window in pending:
                    wait_for_window()
            for crop, draw in zip(crops, draws, strict=True):
                _flip(crop, draw)

        return wait

    def _corner(self, row: int, shape: Sequence[int], draw: np.ndarray) -> tuple[int, int]:
        height, width = shape
        if height < self.crop or width < self.crop:
            raise InputError(
                f"{self.index.describe(row)} has {height} × {width} pixels, less than a crop of "
                f"{self.crop} ({self.index.image_uris(row, self.channels)[0]})."
            )
        return int(draw[0] * (height - self.crop + 1)), int(draw[1] * (width - self.crop + 1))


def _nothing() -> None:
    """Waits for crops that are filled already."""


def _flip(crop: Crop, draw: np.ndarray) -> None:
    """Flips the crop in place, as its last two random draws say."""
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
