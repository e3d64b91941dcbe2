"""Self-standardisation: every channel of every image gets mean 0 and variance 1."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

# On the 0-1 scale, so that a channel without signal is not blown up to noise.
EPS = 1e-5


def default_scale(dtype: np.typing.DTypeLike) -> float:
    """The divisor that brings pixels of `dtype` to 0-1: the type's maximum, or 1 for floats."""
    dtype = np.dtype(dtype)
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def self_standardize(
    pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"],
    scale: float | None = None,
) -> Float[Array, "*batch height width"]:
    """Standardises each image channel over its own pixels, in float32 on the device.

    `x = pixels / scale; (x - mean(x)) / sqrt(var(x) + 1e-5)` with the biased variance over
    height and width (Section 4, after Sypetkowski et al.). A constant channel becomes 0.

    Args:
      pixels: raw pixels, integer or float; uint8 and uint16 may be sent to the device as they are.
      scale: the divisor that brings them to 0-1; None takes the maximum of the integer type
        (255, 65535) and 1 for floats, which then must lie in 0-1 already.
    """
    divisor = default_scale(pixels.dtype) if scale is None else scale
    x = jnp.asarray(pixels).astype(jnp.float32) / divisor
    mean = x.mean(axis=(-2, -1), keepdims=True)
    centred = x - mean
    variance = jnp.square(centred).mean(axis=(-2, -1), keepdims=True)
    return centred * jax.lax.rsqrt(variance + EPS)
