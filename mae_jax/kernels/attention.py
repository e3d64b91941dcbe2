"""One attention function over several backends, chosen by platform or by name.

"xla"         plain products and softmax; every platform, every derivative.
"chunked"     blocks of heads or queries one after another, recomputed in the backward pass: memory
              linear in the sequence, and on CPUs faster: a block of scores stays in the cache.
"cudnn"       the fused flash attention of cuDNN (NVIDIA; float16 and bfloat16); in training odd
              lengths are padded.
"tpu_flash"   Pallas flash attention (TPU).
"tpu_splash"  Pallas splash attention (TPU).
"auto"        on CPUs chunked where scores are large, else xla; on GPUs cudnn where it can; on TPUs
              tpu_flash from 1,024 tokens on, else xla.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.config import nearest
from mae_jax.distributed.sharding_context import platform
from mae_jax.errors import InputError
from mae_jax.kernels.attention_cudnn import cudnn_attention
from mae_jax.kernels.attention_tpu import flash_attention, splash_attention

BACKENDS = ("auto", "xla", "cudnn", "tpu_flash", "tpu_splash", "chunked")

# A block of so many float32 scores (2.3 MiB, one head of 3 channels of 256 patches) stays in the
# cache, and its products are large enough to run at the processor's full speed.
_BLOCK = 600_000
# Below so many tokens plain products on a TPU are as fast as the kernel.
_TPU_TOKENS = 1024


def attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
    *,
    backend: str = "auto",
) -> Float[Array, "batch queries heads head_dim"]:
    """softmax(q kᵀ / sqrt(head_dim)) v, with the softmax in float32.

    Raises:
      InputError: an unknown backend, or one that cannot compute this type or platform.
    """
    if backend == "auto":
        scores = query.shape[0] * query.shape[2] * query.shape[1] * key.shape[1]
        backend = choose_backend(platform(), query.dtype, key.shape[1], scores)
    if backend == "xla":
        return _xla(query, key, value)
    if backend == "chunked":
        return chunked_attention(query, key, value)
    if backend == "tpu_flash":
        return flash_attention(query, key, value)
    if backend == "tpu_splash":
        return splash_attention(query, key, value)
    if backend == "cudnn":
        if query.dtype not in (jnp.float16, jnp.bfloat16):
            raise InputError(
                f"attention 'cudnn' computes bfloat16, not {query.dtype}; set dtype to 'bfloat16' "
                "or attention to 'auto'."
            )
        return cudnn_attention(query, key, value)
    raise InputError(f"there is no attention '{backend}': {nearest(backend, BACKENDS)}")


def choose_backend(platform: str, dtype: jnp.dtype, keys: int, scores: int) -> str:
    """What "auto" means on "cpu", "gpu" or "tpu" for so many keys and scores in all."""
    if platform == "cpu":
        return "chunked" if scores > 2 * _BLOCK else "xla"
    if platform == "tpu":
        return "tpu_flash" if keys >= _TPU_TOKENS else "xla"
    if platform in ("gpu", "cuda") and dtype in (jnp.float16, jnp.bfloat16):
        return "cudnn"
    return "xla"


def attention_weights(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch heads queries keys"]:
    """The float32 softmax weights themselves, for maps of what a token attends to."""
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * scale, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(scores, axis=-1)


def _xla(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    # Heads ahead of tokens before the products, and the division after them: on a CPU this is
    # several times faster than leaving both to the compiler.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    scores = _scores(q, k)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    out = _product("bhqk,bhkd->bhqd", weights.astype(v.dtype), v)
    out = out / weights.sum(axis=-1, keepdims=True)
    return jnp.swapaxes(out, 1, 2).astype(query.dtype)


def _scores(q: jax.Array, k: jax.Array) -> jax.Array:
    return _product("...qd,...kd->...qk", q * q.shape[-1] ** -0.5, k)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


@jax.custom_vjp
def chunked_attention(
    query: Float[Array, "batch queries heads head_dim"],
    key: Float[Array, "batch keys heads head_dim"],
    value: Float[Array, "batch keys heads head_dim"],
) -> Float[Array, "batch queries heads head_dim"]:
    """Attention over blocks of heads or of one head's queries; scores exist for one at a time.

    Reverse mode recomputes them from the saved logarithms of the softmax's denominators, so
    nothing of size queries * keys is ever kept. Forward mode is not defined.
    """
    return _chunked_forward(query, key, value)[0]


def _chunks(heads: int, queries: int, keys: int) -> tuple[int, int]:
    """How many of all heads, and of their queries, make a block of scores that fits the cache."""
    pieces = -(-queries * keys // _BLOCK)
    if pieces > 1:
        return 1, -(-queries // pieces)
    most = _BLOCK // (queries * keys)
    return max(n for n in range(1, heads + 1) if heads % n == 0 and n <= most), queries


def _to_blocks(x: jax.Array, heads: int, size: int) -> jax.Array:
    """(batch, tokens, heads, dim) to (groups, blocks, heads of a group, size, dim), padded by 0."""
    tokens, dim = x.shape[1], x.shape[3]
    blocks = -(-tokens // size)
    x = jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, blocks * size - tokens), (0, 0)))
    return x.reshape(-1, heads, blocks, size, dim).swapaxes(1, 2)


def _from_blocks(x: jax.Array, like: jax.Array) -> jax.Array:
    """The inverse of `_to_blocks`, with the shape and type of `like`."""
    batch, tokens, heads, dim = like.shape
    x = x.swapaxes(1, 2).reshape(batch, heads, -1, dim)[:, :, :tokens]
    return x.swapaxes(1, 2).astype(like.dtype)


def _chunked_forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    batch, queries, heads, _ = query.shape
    keys = key.shape[1]
    group, size = _chunks(batch * heads, queries, keys)
    q, (k, v) = _to_blocks(query, group, size), (_to_blocks(x, group, keys) for x in (key, value))

    def of_group(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = args

        def block(q: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores = _scores(q, k[0])
            top = scores.max(axis=-1, keepdims=True)
            weights = jnp.exp(scores - top).astype(v.dtype)
            total = weights.sum(axis=-1, keepdims=True, dtype=jnp.float32)
            out = _product("hqk,hkd->hqd", weights, v[0]) / total
            return out.astype(query.dtype), top + jnp.log(total)

        return jax.lax.map(block, q)

    out, normalizer = jax.lax.map(of_group, (q, k, v))
    result = _from_blocks(out, query)
    return result, (query, key, value, result, normalizer)


def _chunked_backward(
    saved: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, result, normalizer = saved
    batch, queries, heads, dim = query.shape
    keys, scale = key.shape[1], dim**-0.5
    group, size = _chunks(batch * heads, queries, keys)
    # Row sums of weights times their cotangents, from the output instead of the weights.
    product = cotangent.astype(jnp.float32) * result.astype(jnp.float32)
    sums = product.sum(axis=-1, keepdims=True)
    q, d_out, delta = (_to_blocks(x, group, size) for x in (query, cotangent, sums))
    k, v = (_to_blocks(x, group, keys) for x in (key, value))

    def of_group(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, d_out, delta, normalizer = args
        k, v = k[0], v[0]

        def block(
            sums: tuple[jax.Array, jax.Array], args: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            q, d_out, delta, normalizer = args
            weights = jnp.exp(_scores(q, k) - normalizer)
            d_weights = _product("hqd,hkd->hqk", d_out, v)
            d_scores = (weights * (d_weights - delta) * scale).astype(q.dtype)
            d_k = sums[0] + _product("hqk,hqd->hkd", d_scores, q)
            d_v = sums[1] + _product("hqk,hqd->hkd", weights.astype(q.dtype), d_out)
            return (d_k, d_v), _product("hqk,hkd->hqd", d_scores, k).astype(q.dtype)

        zeros = jnp.zeros(k.shape, jnp.float32)
        (d_k, d_v), d_q = jax.lax.scan(block, (zeros, zeros), (q, d_out, delta, normalizer))
        return d_q, d_k[None], d_v[None]

    d_q, d_k, d_v = jax.lax.map(of_group, (q, k, v, d_out, delta, normalizer))
    return _from_blocks(d_q, query), _from_blocks(d_k, key), _from_blocks(d_v, value)


chunked_attention.defvjp(_chunked_forward, _chunked_backward)
