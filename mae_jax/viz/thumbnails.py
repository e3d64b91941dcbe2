"""Small pictures of sites: means over blocks of pixels, in false colors or one channel in gray."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.viz.colors import are_colors, contrast_limits, false_color, rescale_intensity

QUALITY = 85  # of JPEG


def shrink(
    pixels: Shaped[np.ndarray, "channels height width"], size: int
) -> Float[np.ndarray, "channels low_height low_width"]:
    """Means over square blocks, so that the longer side has at most `size` pixels.

    Means keep thin structures; taking every n-th pixel would not.
    """
    step = max(1, -(-max(pixels.shape[1:]) // size))
    height, width = (n // step * step for n in pixels.shape[1:])
    blocks = pixels[:, :height, :width].astype(np.float32)
    return blocks.reshape(len(pixels), height // step, step, width // step, step).mean((2, 4))


def encode(
    small: Float[np.ndarray, "channels height width"],
    channels: Sequence[str],
    *,
    limits: Float[np.ndarray, "channels 2"] | None = None,
    gray: bool = False,
    format: str = "PNG",
) -> bytes:
    """A picture file of the channels.

    Args:
      small: intensities, as `shrink` returns them.
      channels: their names, which decide the colors.
      limits: black and white level of each channel; None: those of this picture.
      gray: show the first channel in gray instead of all in false colors.
      format: "PNG" or "JPEG".
    """
    from PIL import Image

    if limits is None:
        limits = contrast_limits(small)
        if are_colors(channels):
            limits = np.tile([limits[:, 0].min(), limits[:, 1].max()], (len(small), 1))
    shown = rescale_intensity(small, limits)
    if gray:
        picture = Image.fromarray((shown[0] * 255).astype(np.uint8))
    else:
        picture = Image.fromarray(false_color(shown, np.zeros(shown.shape, bool), channels))
    out = BytesIO()
    picture.save(out, format=format, **({"quality": QUALITY} if format == "JPEG" else {}))
    return out.getvalue()
