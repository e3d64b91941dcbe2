"""Learned tables of positions at other grids than that of training, by three published rules."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_OFFSET = 0.1  # what DINO and DINOv2 add to the grid against rounding, which moves the samples


def resize_positions(
    table: Float[Array, "rows columns dim"], rows: int, columns: int, rule: str
) -> Float[Array, "{rows} {columns} dim"]:
    """Interpolate a table of patches' positions to another grid.

    Args:
      rule: "antialias": cubic with a = -1/2, averaging where the grid becomes coarser (timm,
        DINOv2 with registers). "bicubic": PyTorch's cubic with a = -3/4, without averaging
        (transformers' ViT). "bicubic_offset": the same with the step M / (n + 0.1) in place of
        M / n for M rows of training and n of the image (DINO, DINOv2 without registers).
    """
    if (rows, columns) == table.shape[:2]:
        return table
    if rule == "antialias":
        return jax.image.resize(table, (rows, columns, table.shape[-1]), "bicubic")
    offset = _OFFSET if rule == "bicubic_offset" else 0.0
    by_row = cubic_weights(table.shape[0], rows, offset)
    by_column = cubic_weights(table.shape[1], columns, offset)
    return jnp.einsum("rh,cw,hwd->rcd", by_row, by_column, table, precision="highest")


def cubic_weights(size: int, wanted: int, offset: float = 0.0) -> Float[np.ndarray, "wanted size"]:
    """Weights of PyTorch's bicubic interpolation of one axis, without antialiasing.

    Sample i lies at (i + 0.5) size / (wanted + offset) - 0.5; beyond the edge its value continues.
    """
    place = (np.arange(wanted) + 0.5) * size / (wanted + offset) - 0.5
    first = np.floor(place).astype(int)
    weights = np.zeros((wanted, size))
    for tap in (-1, 0, 1, 2):
        distance = np.abs(place - first - tap)
        index = np.clip(first + tap, 0, size - 1)
        np.add.at(weights, (np.arange(wanted), index), _cubic(distance))
    return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
