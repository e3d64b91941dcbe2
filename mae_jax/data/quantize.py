"""From 16 bits to 8 by percentiles: what a plate's channel shows between them gets 256 levels.

A plain shift by 8 bits leaves a dim channel a dozen grey levels. The range is one per plate and
channel, not per image, so that brightness can still be compared within a plate; it is recorded.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped, UInt8

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError

SAMPLE = 16  # sites of a plate that its percentiles are taken from


def plate_ranges(
    index: Index,
    rows: Sequence[int],
    channels: Sequence[str],
    percentiles: tuple[float, float] = (0.1, 99.9),
) -> dict[str, tuple[float, float]]:
    """For each channel the grey values that become 0 and 255, from sites spread over the rows.

    Sites that cannot be read are left aside.

    Raises:
      InputError: the percentiles make no range, or none of the sites can be read.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles must rise within 0 to 100, not {low} and {high}.")
    chosen = [rows[int(place)] for place in np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)))]
    sites, problem = [], None
    for row in chosen:
        try:
            sites.append(read_site(index, row, channels))
        except InputError as error:
            problem = error
    if not sites:
        raise InputError(f"no site of the plate can be read, the last because: {problem}")
    found = {}
    for place, channel in enumerate(channels):
        pixels = np.concatenate([site[place].ravel() for site in sites])
        start, end = np.percentile(pixels, [low, high])
        found[channel] = (float(start), float(max(end, start + 1)))
    return found


def to_uint8(
    site: Shaped[np.ndarray, "channels height width"],
    channels: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> UInt8[np.ndarray, "channels height width"]:
    """The site in 8 bits: each channel's range spread over 0 to 255, what lies beyond it cut."""
    if site.dtype == np.uint8:
        return site
    scaled = np.empty(site.shape, np.uint8)
    for place, channel in enumerate(channels):
        start, end = ranges[channel]
        values = (site[place].astype(np.float32) - start) * (255 / (end - start))
        scaled[place] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return scaled
