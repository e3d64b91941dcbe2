"""Crops of sites: where to cut, how to flip, and the decoded sites that are kept in memory."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError

log = logging.getLogger(__name__)
ATTEMPTS = 20  # sites tried in place of a broken one


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

    def keep(self, key: Any, site: np.ndarray) -> None:
        """Keeps `site`, if there is room for it."""
        with self._lock:
            if key not in self._sites and self.bytes + site.nbytes <= self.max_bytes:
                self._sites[key] = site
                self.bytes += site.nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return SiteCache, (self.max_bytes,)  # a worker process starts with an empty one


@dataclass
class CropReader:
    """Cuts crops out of an index's sites; goes to worker processes by pickling."""

    index: Index
    channels: tuple[str, ...]
    crop: int
    cache: SiteCache = field(default_factory=lambda: SiteCache(0))

    def site(self, row: int) -> Shaped[np.ndarray, "channels height width"]:
        """The site's pixels, from memory where they are kept."""
        found = self.cache.get(row)
        if found is None:
            found = read_site(self.index, row, self.channels)
            self.cache.keep(row, found)
        return found

    def at(self, row: int, top: int, left: int) -> Shaped[np.ndarray, "channels crop crop"]:
        """The crop whose top-left pixel is (top, left), as a view of the site."""
        return self.site(row)[:, top : top + self.crop, left : left + self.crop]

    def centre(self, row: int) -> Shaped[np.ndarray, "channels crop crop"]:
        """The crop in the middle of the field."""
        height, width = self.size(row)
        return self.at(row, (height - self.crop) // 2, (width - self.crop) // 2).copy()

    def random(
        self, row: int, rng: np.random.Generator
    ) -> Shaped[np.ndarray, "channels crop crop"]:
        """A crop drawn uniformly over the field, flipped or not along each axis.

        Always takes four numbers from `rng`, so that what follows does not depend on them.
        """
        height, width = self.size(row)
        top, left, up, over = rng.random(4)
        pixels = self.at(
            row, int(top * (height - self.crop + 1)), int(left * (width - self.crop + 1))
        )
        if up < 0.5:
            pixels = pixels[:, ::-1]
        if over < 0.5:
            pixels = pixels[:, :, ::-1]
        return np.array(pixels, order="C")  # a copy: a view would keep the whole site in memory

    def size(self, row: int) -> tuple[int, int]:
        """Height and width of the site.

        Raises:
          InputError: the field is smaller than a crop, or the site cannot be read.
        """
        height, width = self.site(row).shape[1:]
        if height < self.crop or width < self.crop:
            raise InputError(
                f"{self.index.describe(row)} has {height} × {width} pixels, less than a crop of "
                f"{self.crop} ({self.index.locators(row, self.channels)[0]})."
            )
        return height, width


@dataclass
class RandomCrop:
    """grain's random map: a row becomes a crop; a broken site gives way to another one.

    The substitute is drawn from the element's own random numbers, so it is the same on any number
    of hosts and workers. `row` is the site that the pixels come from; `problem` says what was
    wrong with the one that it stands for ("" almost always).
    """

    reader: CropReader
    rows: Int[np.ndarray, " rows"]
    crops_per_site: int = 1

    def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, Any]:
        row, problems = int(element), list[str]()
        for _ in range(ATTEMPTS):
            try:
                crops = [self.reader.random(row, rng) for _ in range(self.crops_per_site)]
                pixels = np.stack(crops) if len(crops) > 1 else crops[0][None]
                return {"pixels": pixels, "row": row, "problem": "\n".join(problems)}
            except InputError as problem:
                problems.append(str(problem))
                row = int(self.rows[rng.integers(len(self.rows))])
        raise InputError(
            f"{ATTEMPTS} sites in a row could not be read, the last because: {problems[-1]} "
            "See them all with `mae-jax index --check`."
        )

    __call__ = random_map


def stack(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of the elements' crops.

    Raises:
      InputError: their types differ; 8-bit and 16-bit images cannot share a batch, since their
        grey values mean different things.
    """
    kinds = {element["pixels"].dtype for element in elements}
    if len(kinds) > 1:
        raise InputError(
            f"a batch mixes images of types {', '.join(sorted(map(str, kinds)))}; "
            "convert the screen to one type with `mae-jax pack`, or train on one type only."
        )
    count = [len(element["pixels"]) for element in elements]
    return {
        "pixels": np.concatenate([element["pixels"] for element in elements]),
        "row": np.repeat(np.array([element["row"] for element in elements], np.int64), count),
        "problems": [element["problem"] for element in elements if element["problem"]],
    }
