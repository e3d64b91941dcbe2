"""One attention function over several backends, chosen by platform or by name.

"xla"         plain products and softmax; every platform, every derivative.
"chunked"     blocks of queries one after another, recomputed in the backward pass: memory linear
              in the sequence, and on CPUs faster, since a block of scores stays in the cache.
"cudnn"       the fused flash attention of cuDNN (NVIDIA; float16 and bfloat16).
"tpu_flash"   Pallas flash attention (TPU).
"tpu_splash"  Pallas splash attention (TPU).
"auto"        on CPUs chunked where scores are large, else xla; on GPUs cudnn where it can; on TPUs
              tpu_flash from 1,024 tokens on, else xla.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.models.attention_tpu import flash_attention, splash_attention

BACKENDS = ("auto", "xla", "cudnn", "tpu_flash", "tpu_splash", "chunked")

# A block of float32 scores of this many entries (1 MiB) stays in a core's cache.
_BLOCK = 2**18
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
        backend = choose_backend(jax.default_backend(), query.dtype, key.shape[1], scores)
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
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    raise InputError(f"there is no attention '{backend}': {nearest(backend, BACKENDS)}")


def choose_backend(platform: str, dtype: jnp.dtype, keys: int, scores: int) -> str:
    """What "auto" means on "cpu", "gpu" or "tpu" for so many keys and scores in all."""
    if platform == "cpu":
        return "chunked" if scores > 4 * _BLOCK else "xla"
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
    """Attention over blocks of queries; scores exist for one block at a time.

    Reverse mode recomputes them from the saved logarithms of the softmax's denominators, so
    nothing of size queries * keys is ever kept. Forward mode is not defined.
    """
    return _chunked_forward(query, key, value)[0]


def _chunk(heads: int, queries: int, keys: int) -> int:
    """Queries in a block: all of them, or as many as keep the scores in the cache."""
    chunks = -(-heads * queries * keys // (2 * _BLOCK))
    return -(-queries // chunks)


def _to_blocks(x: jax.Array, size: int) -> jax.Array:
    """(batch, tokens, heads, dim) to (batch, blocks, heads, size, dim), padded with zeros."""
    batch, tokens, heads, dim = x.shape
    blocks = -(-tokens // size)
    x = jnp.pad(x, ((0, 0), (0, blocks * size - tokens), (0, 0), (0, 0)))
    return x.reshape(batch, blocks, size, heads, dim).swapaxes(2, 3)


def _from_blocks(x: jax.Array, tokens: int) -> jax.Array:
    batch, blocks, heads, size, dim = x.shape
    return x.swapaxes(2, 3).reshape(batch, blocks * size, heads, dim)[:, :tokens]


def _chunked_forward(
    query: jax.Array, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    _, queries, heads, _ = query.shape
    size = _chunk(heads, queries, key.shape[1])
    q = _to_blocks(query, size)
    k, v = (jnp.swapaxes(x, 1, 2) for x in (key, value))

    def block(k: jax.Array, v: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = _scores(q, k)
        top = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        out = _product("hqk,hkd->hqd", weights.astype(v.dtype), v) / total
        return out.astype(query.dtype), (top + jnp.log(total))[..., 0]

    def sample(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        q, k, v = args
        return jax.lax.map(functools.partial(block, k, v), q)

    out, normalizer = jax.lax.map(sample, (q, k, v))
    result = _from_blocks(out, queries)
    return result, (query, key, value, result, normalizer)


def _chunked_backward(
    saved: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    query, key, value, result, normalizer = saved
    _, queries, heads, dim = query.shape
    scale = dim**-0.5
    size = _chunk(heads, queries, key.shape[1])
    q, d_out = _to_blocks(query, size), _to_blocks(cotangent, size)
    # Row sums of weights times their cotangents, from the output instead of the weights.
    product = cotangent.astype(jnp.float32) * result.astype(jnp.float32)
    delta = _to_blocks(product.sum(axis=-1, keepdims=True), size)
    k, v = (jnp.swapaxes(x, 1, 2) for x in (key, value))

    def sample(args: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, d_out, delta, normalizer = args

        def block(
            sums: tuple[jax.Array, jax.Array], args: tuple[jax.Array, ...]
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            q, d_out, delta, normalizer = args
            weights = jnp.exp(_scores(q, k) - normalizer[..., None])
            d_weights = _product("hqd,hkd->hqk", d_out, v)
            d_scores = (weights * (d_weights - delta) * scale).astype(q.dtype)
            d_k = sums[0] + _product("hqk,hqd->hkd", d_scores, q)
            d_v = sums[1] + _product("hqk,hqd->hkd", weights.astype(q.dtype), d_out)
            return (d_k, d_v), _product("hqk,hkd->hqd", d_scores, k).astype(q.dtype)

        zeros = jnp.zeros(k.shape, jnp.float32)
        (d_k, d_v), d_q = jax.lax.scan(block, (zeros, zeros), (q, d_out, delta, normalizer))
        return d_q, d_k, d_v

    d_q, d_k, d_v = jax.lax.map(sample, (q, k, v, d_out, delta, normalizer))
    return (
        _from_blocks(d_q, queries),
        jnp.swapaxes(d_k, 1, 2).astype(key.dtype),
        jnp.swapaxes(d_v, 1, 2).astype(value.dtype),
    )


chunked_attention.defvjp(_chunked_forward, _chunked_backward)
