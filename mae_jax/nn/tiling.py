"""Tiling a field of view into the crops whose embeddings are averaged."""

import numpy as np
from jaxtyping import Int

from mae_jax.errors import InputError


def _starts(length: int, crop: int) -> np.ndarray:
    count = -(-length // crop)
    if count == 1:
        return np.zeros(1, np.int64)
    return np.round(np.arange(count) * (length - crop) / (count - 1)).astype(np.int64)


def tile_offsets(height: int, width: int, crop: int) -> Int[np.ndarray, "tiles 2"]:
    """Top-left corners (row, column) of the crops that cover a field of `height` × `width` pixels.

    If both sides are multiples of `crop`, the crops do not overlap: a field of 2048² gives 64 crops
    of 256², as in the paper. Otherwise the smallest number of crops that covers every pixel is
    spaced evenly, and neighbors overlap (a field of 1080² gives 25 crops that overlap by 50
    pixels). Dropping the partial border would lose cells; padding it would show the encoder edges
    that it was not trained on. The order is row by row, left to right.

    Raises:
      InputError: the field is smaller than one crop.
    """
    if crop < 1:
        raise InputError(f"a crop must be at least 1 pixel, not {crop}.")
    if height < crop or width < crop:
        raise InputError(
            f"a field of {height} × {width} pixels is smaller than a crop of {crop}; "
            "choose a smaller crop (--crop)."
        )
    rows, columns = _starts(height, crop), _starts(width, crop)
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1)


def grid_offsets(height: int, width: int, crop: int) -> Int[np.ndarray, "tiles 2"]:
    """Corners of crops side by side from the top left, row by row; what is left over is dropped.

    A field of 1080² gives 16 crops of 256². Unlike those of `tile_offsets`, they never overlap.

    Raises:
      InputError: the field is smaller than one crop.
    """
    tile_offsets(height, width, crop)  # the same errors
    rows, columns = (np.arange(length // crop) * crop for length in (height, width))
    grid = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1)
