"""Raw pixels to the values that networks take: self-standardization, and those of other works."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from mae_jax.errors import InputError

# Added to the variance on the 0-1 scale, so that noise in an empty channel is not amplified.
DEFAULT_EPS = 1e-5


def default_scale(dtype: np.typing.DTypeLike) -> float:
    """Return the divisor that brings pixels of `dtype` to 0-1: its maximum, or 1 for floats.

    Raises:
      InputError: an integer type of more than 16 bits, whose maximum no camera reaches: divided
        by it, all images would become constant.
    """
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.integer):
        return 1.0
    if dtype.itemsize > 2:
        raise InputError(
            f"pixels of type {dtype} have no default scale; set the scale to the largest value "
            "of the camera, such as 4095 or 65535 (data.scale in training, `mae-jax convert "
            "--scale` for saved models)."
        )
    return float(np.iinfo(dtype).max)


def self_standardize(
    pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"],
    scale: float | None = None,
    eps: float = DEFAULT_EPS,
) -> Float[Array, "*batch height width"]:
    """Standardize each image channel over its own pixels, in float32 on the device.

    `x = pixels / scale; (x - mean(x)) / sqrt(var(x) + eps)` with the biased variance over
    height and width (Section 4, after Sypetkowski et al.). A constant channel becomes 0.

    Args:
      pixels: raw pixels, integer or float; uint8 and uint16 may be sent to the device unconverted.
      scale: divisor that brings pixels to 0-1; None takes the maximum of the integer type
        (255, 65535), and 1 for floats, which then must be in 0-1 already.
      eps: added to the variance on the 0-1 scale.

    Raises:
      InputError: no scale is given for integers of more than 16 bits.
    """
    x = scaled(pixels, scale)
    centered = x - x.mean(axis=(-2, -1), keepdims=True)
    variance = jnp.square(centered).mean(axis=(-2, -1), keepdims=True)
    return centered * jax.lax.rsqrt(variance + eps)


def scaled(
    pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"],
    scale: float | None = None,
) -> Float[Array, "*batch height width"]:
    """Pixels / scale in float32; None as in `self_standardize`."""
    divisor = default_scale(pixels.dtype) if scale is None else scale
    if isinstance(pixels, np.ndarray) and pixels.dtype.itemsize > 2:
        pixels = pixels.astype(np.float32)  # JAX would wrap 64-bit and unsigned 32-bit integers
    return jnp.asarray(pixels).astype(jnp.float32) / divisor


def z_score(
    x: Float[Array, "*batch height width"], eps: float
) -> Float[Array, "*batch height width"]:
    """(x - mean) / (std + eps) of each image channel, with the biased deviation."""
    centered = x - x.mean(axis=(-2, -1), keepdims=True)
    std = jnp.sqrt(jnp.square(centered).mean(axis=(-2, -1), keepdims=True))
    return centered / (std + eps)


def min_max(
    x: Float[Array, "*batch channels height width"], eps: float
) -> Float[Array, "*batch channels height width"]:
    """(x - min) / (max - min + eps), over all channels of an image together."""
    axes = (-3, -2, -1)
    low, high = x.min(axis=axes, keepdims=True), x.max(axis=axes, keepdims=True)
    return (x - low) / (high - low + eps)


def divided_by_max(
    x: Float[Array, "*batch channels height width"],
) -> Float[Array, "*batch channels height width"]:
    """x / max, over all channels of an image together; black images stay black."""
    high = x.max(axis=(-3, -2, -1), keepdims=True)
    return x / jnp.where(high > 0, high, 1)
