"""One attention function over several backends."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.errors import InputError

BACKENDS = ("auto", "xla", "chunked")


def attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    *,
    backend: str = "auto",
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q kᵀ / sqrt(head_dim)) v, with the softmax in float32.

    Raises:
      InputError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise InputError(f"attention must be one of {', '.join(BACKENDS)}, not '{backend}'.")
    return _xla(query, key, value)


def attention_weights(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch heads queries keys"]:
    """The float32 softmax weights themselves, for maps of what a token attends to."""
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores, axis=-1)


def _xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    weights = attention_weights(query, key).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)
