"""Random embeddings: what an evaluation finds where there is nothing to find."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mae_jax.networks.encoder import Encoder
from mae_jax.weights.preprocessing import Preprocessing


class RandomEncoder(Encoder):
    """Normal numbers that depend on the pixels' exact values and on nothing that they show.

    The pixels are hashed into the key of a random generator, so the same crop always gets the
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
        """Independent standard normal features; poolings and blocks change nothing."""
        self.check_pooling(pooling)

        def one(crop: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(self.seed), _hash(crop))
            return jax.random.normal(key, (self.features,))

        return jax.vmap(one)(pixels)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The same for every number of channels."""
        return self.features

    def architecture(self) -> str:
        """Name, number of features and seed."""
        return f"random {self.features} {self.seed}"


def _hash(crop: jax.Array) -> jax.Array:
    """A 32-bit hash of all values and their places."""
    if jnp.issubdtype(crop.dtype, jnp.floating):
        bits = jax.lax.bitcast_convert_type(crop.astype(jnp.float32), jnp.uint32)
    else:
        bits = crop.astype(jnp.uint32)
    bits = bits.reshape(-1)
    # A multiplicative hash by odd constants (Knuth; murmur3's finaliser), summed modulo 2**32.
    place = jnp.arange(bits.shape[0], dtype=jnp.uint32) * jnp.uint32(2654435761) + jnp.uint32(1)
    mixed = (bits + place) * jnp.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
    return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)
