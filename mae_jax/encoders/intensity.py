"""Statistics of pixel intensities: the baseline that any network must beat (Table 3)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mae_jax.networks.encoder import Encoder
from mae_jax.nn.standardize import default_scale
from mae_jax.weights.preprocessing import Preprocessing

PER_CHANNEL = ("mean", "std", "p01", "p50", "p99")


class IntensityEncoder(Encoder):
    """Five statistics of each channel: thirty for the paper's six channels.

    Per channel, on raw pixels brought to 0-1 by their scale (not self-standardised, which would
    remove them): mean, standard deviation, and the 1st, 50th and 99th percentiles. Feature
    `5 * c + j` is PER_CHANNEL[j] of channel c.
    """

    def __init__(self, scale: float | None = None, crop: int = 256) -> None:
        self.name = "intensity"
        self.params: dict[str, Any] = {}
        self.preprocessing = Preprocessing(channels=(), any_channels=True, crop=crop, scale=scale)

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """The statistics of each crop; poolings and blocks change nothing."""
        self.check_pooling(pooling)
        scale = self.preprocessing.scale
        divisor = default_scale(pixels.dtype) if scale is None else scale
        x = pixels.astype(jnp.float32).reshape(*pixels.shape[:2], -1) / divisor
        mean = x.mean(axis=-1)
        deviation = jnp.sqrt(jnp.square(x - mean[..., None]).mean(axis=-1))
        percentiles = jnp.percentile(x, jnp.array([1.0, 50.0, 99.0]), axis=-1)
        own = jnp.stack([mean, deviation, *percentiles], axis=-1)
        return own.reshape(len(own), -1)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """Five for each channel."""
        return len(PER_CHANNEL) * channels
