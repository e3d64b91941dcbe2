"""The Pallas attention kernels of TPUs, padded to their blocks and sharded over the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.distributed.sharding_context import map_batch_shards

_LANES = 128


def flash_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch queries heads head_dim"]:
    """Pallas flash attention, forward and backward; only for TPUs."""
    return map_batch_shards(_flash_kernel, query, key, value)


def splash_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch queries heads head_dim"]:
    """Pallas splash attention, forward and backward; only for TPUs."""
    return map_batch_shards(_splash_kernel, query, key, value)


def _padded(x: jax.Array, multiple: int = _LANES) -> jax.Array:
    """Heads ahead of tokens, tokens padded to a multiple."""
    x = jnp.swapaxes(x, 1, 2)
    return jnp.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % multiple), (0, 0)))


def _segments(real: int, padded: int) -> jax.Array:
    """1 for real tokens, 0 for padding: tokens attend within their segment only."""
    return (jnp.arange(padded) < real).astype(jnp.int32)


def _flash_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import flash_attention as kernel

    q, k, v = (_padded(x) for x in (query, key, value))
    batch = q.shape[0]
    segments = kernel.SegmentIds(
        q=jnp.broadcast_to(_segments(query.shape[1], q.shape[2]), (batch, q.shape[2])),
        kv=jnp.broadcast_to(_segments(key.shape[1], k.shape[2]), (batch, k.shape[2])),
    )
    out = kernel.flash_attention(q, k, v, segment_ids=segments, sm_scale=query.shape[-1] ** -0.5)
    return jnp.swapaxes(out, 1, 2)[:, : query.shape[1]].astype(query.dtype)


def _splash_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    q, k, v = (_padded(x) for x in (query, key, value))
    q = q * query.shape[-1] ** -0.5
    # The kernel wants head sizes of whole lanes; zeros change neither scores nor the cut output.
    extra = -q.shape[3] % _LANES
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, extra))) for x in (q, k, v))
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    mask = masks.MultiHeadMask([masks.FullMask((queries, keys)) for _ in range(heads)])
    attend = kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1)
    segments = kernel.SegmentIds(
        q=_segments(query.shape[1], queries), kv=_segments(key.shape[1], keys)
    )
    out = jax.vmap(lambda q, k, v: attend(q, k, v, segment_ids=segments))(q, k, v)
    out = jnp.swapaxes(out, 1, 2)[:, : query.shape[1], :, : query.shape[3]]
    return out.astype(query.dtype)
