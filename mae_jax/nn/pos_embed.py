"""The fixed sine-cosine table of positions, made for the grid that the image really has."""

import numpy as np
from jaxtyping import Float


def sincos_pos_embed(
    height: int, width: int, dim: int, *, channels: int = 1, class_token: bool = False
) -> Float[np.ndarray, "tokens {dim}"]:
    """Rows [sin hω, cos hω, sin wω, cos wω] with ω_k = 10000^(-k / (dim/4)), height first.

    Args:
      height: rows of the grid of patches.
      width: columns of the grid of patches.
      dim: length of a token, a multiple of 4.
      channels: the table is repeated for so many channels (channel-major tokens).
      class_token: put a row of zeros first.

    Returns:
      float32; row `c * height * width + h * width + w` (after the class token's row).
    """
    quarter = dim // 4
    frequency = 10000.0 ** (-np.arange(quarter) / quarter)
    rows = np.arange(height)[:, None] * frequency
    columns = np.arange(width)[:, None] * frequency
    by_row = np.concatenate([np.sin(rows), np.cos(rows)], axis=1)
    by_column = np.concatenate([np.sin(columns), np.cos(columns)], axis=1)
    grid = np.concatenate(
        [np.repeat(by_row, width, axis=0), np.tile(by_column, (height, 1))], axis=1
    )
    table = np.tile(grid, (channels, 1))
    if class_token:
        table = np.concatenate([np.zeros((1, dim)), table])
    return table.astype(np.float32)
