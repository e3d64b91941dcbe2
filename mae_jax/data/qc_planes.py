"""Every image of an index opened and measured, for quality control."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import numpy as np
from tqdm import tqdm

from mae_jax.data.image_quality import ImageQuality, measure_quality
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.images import read_planes
from mae_jax.data.index import Index
from mae_jax.data.nuclei import count_nuclei
from mae_jax.errors import InputError, MachineError
from mae_jax.networks.channel_names import stains


@dataclass(frozen=True)
class Plane:
    """The measurements of one image, or the reason why it cannot be read (`error`)."""

    row: int
    channel: str
    file: str
    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    saturated: float = 0.0
    finite: bool = True
    error: str = ""
    quality: ImageQuality | None = None
    nuclei: int | None = None


def measure_planes(index: Index, threads: int, progress: bool) -> list[Plane]:
    """The measurements of every image of an index, site by site.

    Args:
      index: the index.
      threads: images opened at once.
      progress: show a progress bar.
    """

    def measure(row: int) -> list[Plane]:
        names = index.sites[row][0]
        uris = index.image_uris(row)
        return [_measure(row, c, uri) for c, uri in zip(names, uris, strict=True)]

    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(measure, range(len(index)))
        shown = tqdm(done, "checking sites", len(index), unit="site", disable=not progress)
        return [plane for planes in shown for plane in planes]


def _measure(row: int, channel: str, uri: ImageURI) -> Plane:
    try:
        plane = read_planes([uri])[0]
    except (InputError, MachineError) as error:
        return Plane(row, channel, str(uri), error=str(error))
    height, width = plane.shape
    finite = plane if plane.dtype.kind in "iu" else plane[np.isfinite(plane)]
    low, median, high = (
        (float(finite.min()), float(np.median(finite)), float(finite.max()))
        if finite.size
        else (np.nan, np.nan, np.nan)
    )
    whole = finite.size == plane.size
    quality = measure_quality(plane) if whole else None
    return Plane(
        row,
        channel,
        str(uri),
        (height, width),
        str(plane.dtype),
        low,
        median,
        high,
        quality.saturated if quality else float("nan"),
        whole,
        quality=quality,
        nuclei=count_nuclei(plane) if whole and _counts(channel) else None,
    )


@cache
def _counts(channel: str) -> bool:
    """Whether nuclei can be counted in a channel: it is a DNA stain, and scikit-image is there."""
    return find_spec("skimage") is not None and "DNA" in stains(channel)[0]
