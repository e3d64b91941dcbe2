"""Quantization from 16 bits to 8: the range between two percentiles gets 256 levels.

A plain shift by 8 bits leaves a dim channel a dozen gray levels. There is one range per plate and
channel, not per image, so that brightness can still be compared within a plate; it is recorded.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Shaped, UInt8

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError

SAMPLE = 16  # sites of a plate from which its percentiles are computed


def plate_ranges(
    index: Index,
    rows: Sequence[int],
    channels: Sequence[str],
    percentiles: tuple[float, float] = (0.1, 99.9),
) -> dict[str, tuple[float, float]]:
    """For each channel the gray values that become 0 and 255, from sites spread over the rows.

    Sites that cannot be read are left out.

    Raises:
      InputError: the percentiles make no range, or none of the sites can be read.
    """
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise InputError(f"percentiles must rise within 0 to 100, not {low} and {high}.")
    positions = np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int)
    sites, last_error = [], None
    for row in (rows[int(position)] for position in positions):
        try:
            sites.append(read_site(index, row, channels))
        except InputError as error:
            last_error = error
    if not sites:
        raise InputError(f"no site of the plate can be read, the last because: {last_error}")
    ranges = {}
    for number, channel in enumerate(channels):
        pixels = np.concatenate([site[number].ravel() for site in sites])
        start, end = np.percentile(pixels, [low, high])
        ranges[channel] = (float(start), float(max(end, start + 1)))
    return ranges


def to_uint8(
    site: Shaped[np.ndarray, "channels height width"],
    channels: Sequence[str],
    ranges: Mapping[str, tuple[float, float]],
) -> UInt8[np.ndarray, "channels height width"]:
    """The site in 8 bits: each channel's range maps to 0 to 255, values beyond it are clipped."""
    if site.dtype == np.uint8:
        return site
    scaled = np.empty(site.shape, np.uint8)
    for number, channel in enumerate(channels):
        start, end = ranges[channel]
        values = (site[number].astype(np.float32) - start) * (255 / (end - start))
        scaled[number] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return scaled
