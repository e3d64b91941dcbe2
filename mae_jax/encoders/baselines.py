"""Baselines without learned weights: intensity statistics and random embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, UInt32

from mae_jax.networks.encoder import Encoder
from mae_jax.nn.standardize import default_scale
from mae_jax.weights.preprocessing import Preprocessing

PER_CHANNEL = ("mean", "std", "p01", "p50", "p99")


class IntensityEncoder(Encoder):
    """Five intensity statistics per channel: the baseline any network must beat (Table 3).

    Per channel, on raw pixels brought to 0-1 by their scale (not self-standardized, which would
    remove them): mean, standard deviation, and the 1st, 50th and 99th percentiles. Feature
    `5 * c + j` is PER_CHANNEL[j] of channel c; the paper's six channels give thirty features.
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
        """Compute the statistics of each crop; pooling and block have no effect."""
        self.check_pooling(pooling)
        scale = self.preprocessing.scale
        divisor = default_scale(pixels.dtype) if scale is None else scale
        x = pixels.astype(jnp.float32).reshape(*pixels.shape[:2], -1) / divisor
        mean = x.mean(axis=-1)
        std = jnp.sqrt(jnp.square(x - mean[..., None]).mean(axis=-1))
        percentiles = jnp.percentile(x, jnp.array([1.0, 50.0, 99.0]), axis=-1)
        statistics = jnp.stack([mean, std, *percentiles], axis=-1)
        return statistics.reshape(len(statistics), -1)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """Return the number of features: five per channel."""
        return len(PER_CHANNEL) * channels


class RandomEncoder(Encoder):
    """Random embeddings: the score of an evaluation in the absence of any signal.

    Standard normal features that depend on the exact pixel values and not on image content: the
    pixels are hashed into the key of a random generator, so that the same crop always gets the
    same vector while any other crop, however similar, gets an independent one.
    """

    def __init__(self, features: int = 128, seed: int = 0, crop: int = 256) -> None:
        self.name = "random"
        self.features = features
        self.seed = seed
        self.params: dict[str, Any] = {}
        self.preprocessing = Preprocessing(channels=(), any_channels=True, crop=crop)

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """Draw independent standard normal features; pooling and block have no effect."""
        self.check_pooling(pooling)

        def draw(crop: Num[Array, "channels height width"]) -> Float[Array, " features"]:
            key = jax.random.fold_in(jax.random.key(self.seed), _hash(crop))
            return jax.random.normal(key, (self.features,))

        return jax.vmap(draw)(pixels)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """Return the number of features, the same for every number of channels."""
        return self.features

    def architecture(self) -> str:
        """Return name, number of features and seed."""
        return f"random {self.features} {self.seed}"


def _hash(crop: Num[Array, "channels height width"]) -> UInt32[Array, ""]:
    """Hash all values and their positions to 32 bits."""
    if jnp.issubdtype(crop.dtype, jnp.floating):
        bits = jax.lax.bitcast_convert_type(crop.astype(jnp.float32), jnp.uint32)
    else:
        bits = crop.astype(jnp.uint32)
    bits = bits.reshape(-1)
    # A multiplicative hash by odd constants (Knuth; murmur3's finaliser), summed modulo 2**32.
    index = jnp.arange(bits.shape[0], dtype=jnp.uint32) * jnp.uint32(2654435761) + jnp.uint32(1)
    mixed = (bits + index) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)
