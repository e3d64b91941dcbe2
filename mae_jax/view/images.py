"""Pictures of sites: any channels, in false colors or gray, with black and white levels."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.errors import InputError
from mae_jax.viz.colors import channel_colors, contrast_limits
from mae_jax.viz.thumbnails import encode, shrink

MAX_SIZE = 2048


def channel_settings(index: Index, row: int, size: int = 384) -> list[dict[str, Any]]:
    """Name, color (#rrggbb), automatic levels and largest value of each channel of a site.

    Raises:
      InputError: the site's images cannot be read.
    """
    names = index.sites[row][0]
    pixels = _shrunk(index, row, size)
    limits = contrast_limits(pixels)
    colors = np.round(channel_colors(names) * 255).astype(int)
    return [
        {
            "name": name,
            "color": "#" + "".join(f"{part:02x}" for part in color),
            "low": float(low),
            "high": float(high),
            "max": float(plane.max()),
        }
        for name, color, (low, high), plane in zip(names, colors, limits, pixels, strict=True)
    ]


def site_png(
    index: Index,
    row: int,
    *,
    size: int = 384,
    channels: Sequence[str] = (),
    levels: Mapping[str, tuple[float, float]] | None = None,
) -> bytes:
    """A PNG of a site, at most `size` pixels wide.

    Args:
      index: the screen.
      row: the site's row.
      size: the largest width or height, at most 2,048 pixels.
      channels: those to show; none: all. A single one is shown in gray.
      levels: black and white level in gray levels for some channels; others get quantiles.

    Raises:
      InputError: no such channel, or the site's images cannot be read.
    """
    names = index.sites[row][0]
    for channel in (*channels, *(levels or ())):
        if channel not in names:
            raise InputError(f"{index.describe(row)} has no channel '{channel}'.")
    pixels = _shrunk(index, row, min(size, MAX_SIZE))
    limits = contrast_limits(pixels)
    for channel, (low, high) in (levels or {}).items():
        limits[names.index(channel)] = low, max(high, low + 1e-6)
    if len(channels) == 1:
        alone = [names.index(channels[0])]
        return encode(pixels[alone], channels, limits=limits[alone], gray=True)
    if channels:  # the rest black, so that colors stay those of the channel
        absent = ~np.isin(names, channels)
        pixels = np.where(absent[:, None, None], limits[:, :1, None], pixels)
    return encode(pixels, names, limits=limits)


@lru_cache(maxsize=64)
def _shrunk(index: Index, row: int, size: int) -> Float[np.ndarray, "channels height width"]:
    return shrink(read_site(index, row, index.sites[row][0]), size)
