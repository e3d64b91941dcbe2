"""Pooling of tokens into one vector per image: the three ways of Figure 4."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.errors import InputError

POOLINGS = ("class", "mean", "channel")


def pool(
    tokens: Float[Array, "batch tokens dim"], pooling: str, channels: int = 1
) -> Float[Array, "batch features"]:
    """The class token, the mean of the patches, or the channels' means one after another.

    Args:
      tokens: class token first, then the patches, channel-major.
      pooling: "class", "mean" or "channel".
      channels: how many channels the patches belong to; "channel" gives channels * dim features.

    Raises:
      InputError: an unknown pooling.
    """
    if pooling == "class":
        return tokens[:, 0].astype(jnp.float32)
    patches = tokens[:, 1:].astype(jnp.float32)
    if pooling == "mean":
        return patches.mean(axis=1)
    if pooling == "channel":
        batch, count, dim = patches.shape
        by_channel = patches.reshape(batch, channels, count // channels, dim).mean(axis=2)
        return by_channel.reshape(batch, channels * dim)
    raise InputError(f"pooling must be one of {', '.join(POOLINGS)}, not '{pooling}'.")
