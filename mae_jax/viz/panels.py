"""Panels of crops: masked input, reconstruction and original side by side (Figures 2 and 7)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from mae_jax.errors import InputError
from mae_jax.viz.colors import contrast_limits, false_color, rescale_intensity, to_gray

COLUMNS = ("masked", "reconstruction", "original")
_PAPER, _INK = (255, 255, 255), (30, 30, 36)
_GAP, _GROUP, _MARGIN = 4, 20, 10
_MIN_TILE = 128  # pixels per side that a tile is enlarged to at least


def reconstruction_grid(
    masked: Num[np.ndarray, "..."],
    reconstruction: Num[np.ndarray, "..."],
    original: Num[np.ndarray, "..."],
    channels: Sequence[str],
    *,
    columns: int = 4,
    titles: Sequence[str] = (),
) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """Draw triplets in one picture, false color above and channel by channel below.

    Contrast is rescaled per crop and channel by the original alone, so that the three of a triplet
    are comparable. Pixels of `masked` that differ from the original, or are NaN, count as hidden
    and are drawn in one dark gray.

    Args:
      masked: the input of the network, (C, H, W) or (B, C, H, W), in any unit the three share.
      reconstruction: its output.
      original: the target.
      channels: the names of the C channels.
      columns: crops per row.
      titles: one line per crop, above it.

    Raises:
      InputError: the three have different shapes, or the channel names do not fit them.
    """
    inputs, outputs, targets = (_batched(i) for i in (masked, reconstruction, original))
    if not inputs.shape == outputs.shape == targets.shape:
        raise InputError(
            f"masked, reconstruction and original must have the same shape, not {masked.shape}, "
            f"{reconstruction.shape} and {original.shape}."
        )
    if targets.shape[1] != len(channels):
        raise InputError(
            f"{len(channels)} channels are named ({', '.join(channels)}), but the images have "
            f"{targets.shape[1]}."
        )
    blocks = [_triplet(*crops, channels) for crops in zip(inputs, outputs, targets, strict=True)]
    return _grid(blocks, ("false color", *channels), COLUMNS, titles, columns)


def channel_grid(
    columns: Sequence[Float[np.ndarray, "channels height width"]],
    names: Sequence[str],
    channels: Sequence[str],
    *,
    title: str = "",
) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """Draw several images of one field side by side, each with a contrast of its own.

    NaN pixels (a channel that one of the images lacks) are drawn in one dark gray.

    Args:
      columns: images with the same channels, side by side.
      names: the heading of each.
      channels: the names of the channels, one row each below the false colors.
      title: a line above all.
    """
    block = []
    for image in columns:
        hidden = np.isnan(image)
        filled = np.where(hidden, 0.0, image)
        block.append(_column(rescale_intensity(filled, contrast_limits(filled)), hidden, channels))
    return _grid([block], ("false color", *channels), names, [title] if title else [], 1)


def _batched(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim not in (3, 4):
        raise InputError(f"images must be (C, H, W) or (B, C, H, W), not {images.shape}.")
    return images.reshape(-1, *images.shape[-3:])


def _triplet(
    masked: np.ndarray, reconstruction: np.ndarray, original: np.ndarray, channels: Sequence[str]
) -> list[list[np.ndarray]]:
    """Three columns of tiles."""
    limits = contrast_limits(original)
    hidden = np.isnan(masked) | (masked != original)
    visible = np.zeros_like(hidden)
    return [
        _column(rescale_intensity(np.nan_to_num(image), limits), mask, channels)
        for image, mask in ((masked, hidden), (reconstruction, visible), (original, visible))
    ]


def _column(image: np.ndarray, hidden: np.ndarray, channels: Sequence[str]) -> list[np.ndarray]:
    """Tiles of one rescaled image: false color, then each channel."""
    planes = [to_gray(plane, mask) for plane, mask in zip(image, hidden, strict=True)]
    return [false_color(image, hidden, channels), *planes]


def _grid(
    blocks: Sequence[Sequence[Sequence[np.ndarray]]],
    rows: Sequence[str],
    columns: Sequence[str],
    titles: Sequence[str],
    per_row: int,
) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """Lay out blocks of columns of tiles with labels, `per_row` blocks in a row."""
    tile_height, tile_width = blocks[0][0][0].shape[:2]
    zoom = max(1, -(-_MIN_TILE // max(tile_height, tile_width)))
    tile_height, tile_width = tile_height * zoom, tile_width * zoom
    font = ImageFont.load_default(size=max(12, tile_width // 12))
    line = round(1.6 * (font.getbbox("Ag")[3]))
    labels = max(round(font.getlength(name)) for name in rows) + 2 * _GAP
    head = line * (2 if titles else 1)
    block_width = len(columns) * (tile_width + _GAP) - _GAP
    block_height = head + len(rows) * (tile_height + _GAP) - _GAP
    per_row = max(1, min(per_row, len(blocks)))
    down = -(-len(blocks) // per_row)
    width = 2 * _MARGIN + labels + per_row * (block_width + _GROUP) - _GROUP
    height = 2 * _MARGIN + down * (block_height + _GROUP) - _GROUP
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, block in enumerate(blocks):
        left = _MARGIN + labels + (number % per_row) * (block_width + _GROUP)
        top = _MARGIN + (number // per_row) * (block_height + _GROUP)
        if number < len(titles):
            draw.text((left, top), titles[number], _INK, font)
        for column, (name, tiles) in enumerate(zip(columns, block, strict=True)):
            x = left + column * (tile_width + _GAP)
            draw.text((x, top + head - line), name, _INK, font)
            for row, tile in enumerate(tiles):
                y = top + head + row * (tile_height + _GAP)
                page.paste(_enlarged(tile, zoom), (x, y))
        if number % per_row == 0:
            for row, name in enumerate(rows):
                y = top + head + row * (tile_height + _GAP) + tile_height // 2
                draw.text((_MARGIN, y), name, _INK, font, anchor="lm")
    return np.asarray(page)


def _enlarged(tile: Shaped[np.ndarray, "height width 3"], zoom: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.repeat(tile, zoom, axis=0), zoom, axis=1))
