"""The fused attention of cuDNN, padded where its derivative needs it and sharded over the batch."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.distributed.sharding_context import map_batch_shards

# The derivative refuses odd lengths, and a class token makes most lengths odd.
_MULTIPLE = 2


def cudnn_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch queries heads head_dim"]:
    """cuDNN's flash attention, forward and backward; float16 and bfloat16 on NVIDIA GPUs only."""
    # cuDNN's own sharding rule leaves the lengths of padded sequences replicated, so that they
    # would not match the shards of the batch.
    return map_batch_shards(_attend, query, key, value)


def padded_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    *,
    implementation: str = "cudnn",
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention over lengths padded to even ones, with the padding masked and cut off.

    Padded keys are masked by their length. Padded queries are zeros that attend to the real keys:
    their outputs are cut off and their cotangents are zero, so they add nothing to any gradient.

    Args:
      implementation: that of `jax.nn.dot_product_attention`; "xla" computes the same anywhere.
    """
    attend = functools.partial(jax.nn.dot_product_attention, implementation=implementation)
    queries, keys = query.shape[1], key.shape[1]
    if queries % _MULTIPLE == 0 and keys % _MULTIPLE == 0:
        return attend(query, key, value)
    q, k, v = (_pad(x) for x in (query, key, value))
    out = attend(
        q,
        k,
        v,
        query_seq_lengths=_lengths(query, q.shape[1]),
        key_value_seq_lengths=_lengths(key, keys),
    )
    return out[:, :queries]


def _pad(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % _MULTIPLE), (0, 0), (0, 0)))


def _lengths(x: jax.Array, length: int) -> jax.Array:
    """`length` for every sample of `x`, computed from `x`, so that `vmap` maps both.

    cuDNN's rule for `vmap` needs lengths with the mapped axis, which a constant would lack.
    """
    return jnp.where(x[:, 0, 0, 0] == 0, length, length).astype(jnp.int32)


@jax.custom_vjp
def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    # Without a derivative any length will do, and nothing is copied.
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, Callable[[jax.Array], tuple[jax.Array, ...]]]:
    return jax.vjp(padded_attention, query, key, value)


def _backward(
    vjp: Callable[[jax.Array], tuple[jax.Array, ...]], cotangent: jax.Array
) -> tuple[jax.Array, ...]:
    return vjp(cotangent)


_attend.defvjp(_forward, _backward)
