"""Rotary positions of DINOv3: queries and keys are turned by angles of their patches' places."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BASE = 100.0  # of the periods, as in all published DINOv3


class Rotation(NamedTuple):
    """Cosines and sines of the angles of every token and unit of a head."""

    cos: Float[np.ndarray, "tokens head_dim"]
    sin: Float[np.ndarray, "tokens head_dim"]


def rotation(rows: int, columns: int, head_dim: int, prefix: int) -> Rotation:
    """The rotation of `prefix` tokens that have no place, and then of a grid of patches.

    A patch lies at ((i + 0.5) / rows) * 2 - 1 and ((j + 0.5) / columns) * 2 - 1; its angles are
    2π / 100^(4k / head_dim) times the first, k = 0…head_dim/4 - 1, and then times the second; both
    serve the first and the second half of the head.

    Args:
      head_dim: a multiple of 4.
    """
    quarter = head_dim // 4
    turns = 2 * np.pi / BASE ** (2 * np.arange(quarter) / (head_dim / 2))
    row, column = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (rows, columns))
    places = np.stack(np.meshgrid(row, column, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    angles = np.tile((places * turns).reshape(-1, 2 * quarter), 2)
    angles = np.concatenate([np.zeros((prefix, head_dim)), angles])
    return Rotation(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def rotate(
    x: Float[Array, "batch tokens heads head_dim"], turned: Rotation
) -> Float[Array, "batch tokens heads head_dim"]:
    """x cos + [-second half, first half] sin, in float32."""
    wide = x.astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    swapped = jnp.concatenate([-second, first], axis=-1)
    cos, sin = (jnp.asarray(part)[:, None] for part in turned)
    return (wide * cos + swapped * sin).astype(x.dtype)
