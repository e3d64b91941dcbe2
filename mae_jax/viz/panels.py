"""Sheets of triplets: masked input, reconstruction, original (Figures 2 and 7)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from mae_jax.errors import InputError
from mae_jax.viz.colors import contrast_limits, false_color, grey, stretched

COLUMNS = ("masked", "reconstruction", "original")
_PAPER, _INK = (255, 255, 255), (30, 30, 36)
_GAP, _GROUP, _MARGIN = 4, 20, 10
_LEAST = 128  # pixels a side that a tile is enlarged to at least


def reconstruction_grid(
    masked: Num[np.ndarray, "..."],
    reconstruction: Num[np.ndarray, "..."],
    original: Num[np.ndarray, "..."],
    channels: Sequence[str],
    *,
    across: int = 4,
    titles: Sequence[str] = (),
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """One picture of triplets, in false colour above and channel by channel below.

    Contrast is stretched for each crop and channel by the original alone, so that the three of a
    triplet can be compared. Pixels of `masked` that differ from the original, or are NaN, count
    as hidden and are drawn in one dark grey.

    Args:
      masked: what the network saw, (C, H, W) or (B, C, H, W), in any unit the three share.
      reconstruction: what it made of it.
      original: the truth.
      channels: the names of the C channels.
      across: crops side by side before the next row of crops begins.
      titles: one line for each crop, written above it.

    Raises:
      InputError: the three are not alike, or the channels' names do not fit them.
    """
    hidden, made, true = (_batched(images) for images in (masked, reconstruction, original))
    if not hidden.shape == made.shape == true.shape:
        raise InputError(
            f"masked, reconstruction and original must be alike, not {masked.shape}, "
            f"{reconstruction.shape} and {original.shape}."
        )
    if true.shape[1] != len(channels):
        raise InputError(
            f"{len(channels)} channels are named ({', '.join(channels)}), but the images have "
            f"{true.shape[1]}."
        )
    blocks = [_triplet(m, r, o, channels) for m, r, o in zip(hidden, made, true, strict=True)]
    return _sheet(blocks, ("false colour", *channels), COLUMNS, titles, across)


def channel_grid(
    columns: Sequence[Float[np.ndarray, "channels height width"]],
    names: Sequence[str],
    channels: Sequence[str],
    *,
    title: str = "",
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """One picture of several images of the same place, each with a contrast of its own.

    NaN pixels (a channel that one of the images lacks) are drawn in one dark grey.

    Args:
      columns: images with the same channels, side by side.
      names: what stands above each.
      channels: the names of the channels, one row each below the false colours.
    """
    block = []
    for image in columns:
        hidden = np.isnan(image)
        filled = np.where(hidden, 0.0, image)
        shown = stretched(filled, contrast_limits(filled))
        planes = [grey(plane, where) for plane, where in zip(shown, hidden, strict=True)]
        block.append([false_color(shown, hidden, channels), *planes])
    return _sheet([block], ("false colour", *channels), names, [title] if title else [], 1)


def _batched(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim not in (3, 4):
        raise InputError(f"images must be (C, H, W) or (B, C, H, W), not {images.shape}.")
    return images.reshape(-1, *images.shape[-3:])


def _triplet(
    masked: np.ndarray, reconstruction: np.ndarray, original: np.ndarray, channels: Sequence[str]
) -> list[list[np.ndarray]]:
    """Three columns of tiles: false colour, then each channel."""
    limits = contrast_limits(original)
    hidden = np.isnan(masked) | (masked != original)
    nothing = np.zeros_like(hidden)
    columns = []
    for image, where in ((masked, hidden), (reconstruction, nothing), (original, nothing)):
        shown = stretched(np.nan_to_num(image), limits)
        planes = [grey(plane, mask) for plane, mask in zip(shown, where, strict=True)]
        columns.append([false_color(shown, where, channels), *planes])
    return columns


def _sheet(
    blocks: Sequence[Sequence[Sequence[np.ndarray]]],
    rows: Sequence[str],
    columns: Sequence[str],
    titles: Sequence[str],
    across: int,
) -> UInt8[np.ndarray, "sheet_height sheet_width 3"]:
    """Lays out blocks of columns of tiles, labelled, `across` blocks to a line."""
    tile_height, tile_width = blocks[0][0][0].shape[:2]
    zoom = max(1, -(-_LEAST // max(tile_height, tile_width)))
    tile_height, tile_width = tile_height * zoom, tile_width * zoom
    font = ImageFont.load_default(size=max(12, tile_width // 12))
    line = round(1.6 * (font.getbbox("Ag")[3]))
    labels = max(round(font.getlength(name)) for name in rows) + 2 * _GAP
    head = line * (2 if titles else 1)
    block_width = len(columns) * (tile_width + _GAP) - _GAP
    block_height = head + len(rows) * (tile_height + _GAP) - _GAP
    across = max(1, min(across, len(blocks)))
    down = -(-len(blocks) // across)
    width = 2 * _MARGIN + labels + across * (block_width + _GROUP) - _GROUP
    height = 2 * _MARGIN + down * (block_height + _GROUP) - _GROUP
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, block in enumerate(blocks):
        left = _MARGIN + labels + (number % across) * (block_width + _GROUP)
        top = _MARGIN + (number // across) * (block_height + _GROUP)
        if number < len(titles):
            draw.text((left, top), titles[number], _INK, font)
        for place, (name, tiles) in enumerate(zip(columns, block, strict=True)):
            x = left + place * (tile_width + _GAP)
            draw.text((x, top + head - line), name, _INK, font)
            for row, tile in enumerate(tiles):
                y = top + head + row * (tile_height + _GAP)
                page.paste(_enlarged(tile, zoom), (x, y))
        if number % across == 0:
            for row, name in enumerate(rows):
                y = top + head + row * (tile_height + _GAP) + tile_height // 2
                draw.text((_MARGIN, y), name, _INK, font, anchor="lm")
    return np.asarray(page)


def _enlarged(tile: Shaped[np.ndarray, "height width 3"], zoom: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.repeat(tile, zoom, axis=0), zoom, axis=1))
