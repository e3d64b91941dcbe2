"""Whole slides and other images too large to read at once, cut into regions of one size.

The regions of a slide are its sites. They cover the image as crops cover a field
(`mae_jax.nn.tiling`). Where the file has a pyramid, regions that show only background are left
out, by its smallest level.
"""

import numpy as np
from jaxtyping import Int

from mae_jax.data.image_uri import is_url, resolve
from mae_jax.nn.tiling import tile_offsets

REGION = 2048  # pixels per side
LARGE = 4096  # pixels of a side above which an image is cut
_CONTRAST = 0.1  # of the slide's own contrast, below which a region is background


def regions(root: str, path: str, height: int, width: int) -> Int[np.ndarray, "regions 4"]:
    """Top, left, height and width of the regions of an image that show something.

    Empty for an image that is small enough to be read at once, or that lies at a URL.
    """
    if is_url(resolve(root, path)) or max(height, width) <= LARGE:
        return np.zeros((0, 4), np.int64)
    size = np.array([min(REGION, height), min(REGION, width)])
    corners = _corners(height, width, size)
    overview = _overview(resolve(root, path), height, width)
    if overview is not None:
        keep = _shows_something(overview, corners / [height, width], size / [height, width])
        corners = corners[keep] if keep.any() else corners
    return np.hstack([corners, np.tile(size, (len(corners), 1))])


def _corners(height: int, width: int, size: np.ndarray) -> np.ndarray:
    if size[0] == size[1]:
        return tile_offsets(height, width, int(size[0]))
    # A strip that is narrower than a region.
    if height < width:
        along = tile_offsets(REGION, width, REGION)[:, 1]
        return np.stack([np.zeros_like(along), along], axis=1)
    along = tile_offsets(height, REGION, REGION)[:, 0]
    return np.stack([along, np.zeros_like(along)], axis=1)


def _overview(path: str, height: int, width: int) -> np.ndarray | None:
    """The smallest level of the pyramid with at least 8 pixels per region, as gray values."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            levels = file.series[0].levels[1:]
            fine = [
                level for level in levels
                if level.shape[0] * REGION >= 8 * height and level.ndim in (2, 3)
                and level.size <= 2**26
            ]  # fmt: skip
            if not fine:
                return None
            image = np.asarray(fine[-1].asarray(maxworkers=1), np.float32)
    except Exception:  # a damaged file is found where it is read
        return None
    if image.ndim == 3 and image.shape[-1] in (3, 4):
        return image[..., :3].mean(axis=-1)
    return image if image.ndim == 2 else None


def _shows_something(overview: np.ndarray, corners: np.ndarray, size: np.ndarray) -> np.ndarray:
    low, high = np.percentile(overview, [0.5, 99.5])
    scale = np.array(overview.shape)
    keep = np.ones(len(corners), bool)
    for number, corner in enumerate(corners):
        top, left = np.floor(corner * scale).astype(int)
        bottom, right = np.ceil((corner + size) * scale).astype(int)
        part = overview[top:bottom, left:right]
        darkest, brightest = np.percentile(part, [2, 98])
        keep[number] = brightest - darkest >= _CONTRAST * (high - low)
    return keep
