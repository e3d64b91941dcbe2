"""One image of any size through an encoder: tiled into crops, embedded, and averaged."""

import math
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, Shaped

from mae_jax.errors import InputError
from mae_jax.nn.tiling import grid_offsets, tile_offsets

if TYPE_CHECKING:
    from mae_jax.networks.encoder import Encoder

_SAID_SECONDS = 2.0  # shorter work is done before one has read how long it takes


def crop_corners(
    encoder: "Encoder", height: int, width: int, *, crop: int | None = None
) -> tuple[int, Int[np.ndarray, "crops 2"]]:
    """The side of the crops that an encoder takes of a field, and their corners (row, column).

    Args:
      encoder: with its recipe, which says how fields are tiled.
      height, width: of the field in pixels.
      crop: the side; None for that of the encoder's training.

    Raises:
      InputError: the field is smaller than a crop.
    """
    crop = crop or encoder.preprocessing.crop
    if not encoder.params:  # a baseline has no training size, so a small field will do
        crop = min(crop, height, width)
    in_grid = encoder.recipe is not None and encoder.recipe.tiling == "grid"
    return crop, (grid_offsets if in_grid else tile_offsets)(height, width, crop)


def embed_crops_of_image(
    encoder: "Encoder",
    image: Shaped[np.ndarray, "channels height width"],
    channels: Sequence[str],
    *,
    pooling: str | None = None,
    crop: int | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> tuple[Float[np.ndarray, "crops features"], Int[np.ndarray, "crops 2"]]:
    """The embeddings of all crops of an image, and their corners; see `Encoder.embed_image`."""
    names = tuple(channels)
    if image.ndim != 3 or len(image) != len(names):
        raise InputError(
            f"the image has the shape {image.shape}, which is not (channels, height, width) with "
            f"the {len(names)} channels {', '.join(names)}."
        )
    if len(set(names)) < len(names):
        raise InputError(f"channels are named twice: {', '.join(names)}.")
    if batch_size < 1:
        raise InputError(f"a batch must have at least one crop, not {batch_size}.")
    pooling = pooling or encoder.default_pooling
    chosen = encoder.select_channels(names)
    pixels = image[[names.index(name) for name in chosen]]
    if encoder.recipe is not None:
        pixels = encoder.recipe.prepare(pixels)
    side, corners = crop_corners(encoder, *image.shape[1:], crop=crop)
    encoder.check_crop(side)

    from tqdm import tqdm

    vectors: list[np.ndarray] = []
    starts = range(0, len(corners), batch_size)
    began = time.monotonic()
    with tqdm(total=len(corners), desc="embedding", unit="crop", disable=not progress) as bar:
        for number, start in enumerate(starts):
            part = corners[start : start + batch_size]
            batch = np.stack([pixels[:, y : y + side, x : x + side] for y, x in part])
            # Filled up, so that one compiled program does for all batches.
            missing = min(batch_size, len(corners)) - len(batch)
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
            vectors.append(np.asarray(encoder.embed(batch, pooling=pooling))[: len(part)])
            if number == 1 and progress:  # the first batch compiles
                left = (time.monotonic() - began) * (len(starts) - 2)
                if left > _SAID_SECONDS:
                    text = f"{len(corners)} crops of {side} pixels: about {_duration(left)}"
                    bar.write(text, file=sys.stderr)
            began = time.monotonic()
            bar.update(len(part))
    return np.concatenate(vectors), corners


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
