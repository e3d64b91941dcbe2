"""Transformer blocks: parallel scaling blocks (encoder), ordinary pre-norm blocks (decoders)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.distributed.sharding_context import platform, shard_batch
from mae_jax.kernels.attention import attention, attention_weights
from mae_jax.nn.rotary import Rotation, rotate

# The reference truncates at 2, a hundred deviations away: a plain normal.
backbone_init = nn.initializers.normal(0.02)
decoder_init = nn.initializers.xavier_uniform()
# PyTorch's default for a convolution's kernel, which the reference keeps for the patches.
patch_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Φ(x), the exact GELU, computed in float32.

    Through erf rather than erfc, which costs a CPU three times as much and differs by less than
    float32's rounding of the result's scale.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def matmul(
    x: Float[Array, "*batch dim"], kernel: Float[Array, "dim features"]
) -> Float[Array, "*batch features"]:
    """x @ kernel, both of one type and so the result; the sum is float32.

    On CPUs the float32 sum is asked for by name: XLA multiplies bfloat16 as such only where the
    result is float32, else as float32 and at half the speed. On GPUs and TPUs that would write
    twice the bytes.
    """
    if platform() != "cpu":
        return x @ kernel
    return jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with scale and bias, in float32 whatever it is given."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centered = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centered).mean(axis=-1, keepdims=True)
        return centered * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


class Dense(nn.Module):
    """x @ kernel + bias, computed in `dtype` from float32 parameters."""

    features: int
    use_bias: bool = True
    dtype: str = "float32"
    kernel_init: Any = backbone_init

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch features"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = matmul(x.astype(self.dtype), jnp.asarray(kernel, self.dtype))
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        return y


def split_heads(x: Float[Array, "*batch dim"], heads: int) -> Float[Array, "*batch heads head_dim"]:
    """Splits the last axis into heads of equal size."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: Float[Array, "*batch heads head_dim"]) -> Float[Array, "*batch dim"]:
    """The inverse of `split_heads`."""
    return x.reshape(*x.shape[:-2], -1)


class ParallelBlock(nn.Module):
    """The encoder's block: attention and MLP side by side from one projection (ViT-22B).

    [m | q | k | v] = LayerNorm(x) W_in, then x + drop(gamma * (attention + MLP)). Queries, keys
    and values have no bias; the MLP's bias goes where `bias_layout` says.

    The residual stream is float32 even in bfloat16 compute: a residual scaled by 1e-4 would
    vanish in bfloat16's rounding of x.
    """

    heads: int
    hidden: int
    layer_scale: float | None = 1e-4
    qk_norm: bool = True
    bias_layout: str = "fixed"
    epsilon: float = 1e-6
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens dim"],
        drop: Float[Array, " batch"] | None = None,
        *,
        return_weights: bool = False,
    ) -> Float[Array, "batch tokens dim"] | Float[Array, "batch {self.heads} tokens tokens"]:
        """Returns the new tokens, or the attention weights where `return_weights`.

        Args:
          drop: what the residual of each sample is multiplied by: 0, or 1 / (1 - rate).
        """
        dim, hidden = x.shape[-1], self.hidden
        kernel = self.param("in_proj", backbone_init, (dim, hidden + 3 * dim))
        kernel = jnp.asarray(kernel, self.dtype)
        bias = self.param("mlp_bias", nn.initializers.zeros, (hidden,)).astype(self.dtype)
        y = LayerNorm(self.epsilon, name="in_norm")(x).astype(self.dtype)
        # Two products, since slices of the small kernel cost less than slices of activations.
        m = matmul(y, kernel[:, :hidden])
        qkv = matmul(y, kernel[:, hidden:])
        if self.bias_layout == "legacy":
            # The bias ran over all outputs [m | q | k | v] behind 3 * dim zeros.
            m += jnp.concatenate([jnp.zeros(3 * dim, bias.dtype), bias[: hidden - 3 * dim]])
            qkv += bias[hidden - 3 * dim :]
        else:
            m += bias
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        if self.qk_norm:
            q = LayerNorm(self.epsilon, name="q_norm")(q).astype(self.dtype)
            k = LayerNorm(self.epsilon, name="k_norm")(k).astype(self.dtype)
        if return_weights:
            return attention_weights(q, k)
        a = merge_heads(attention(q, k, v, backend=self.attention))
        m = gelu(m)
        out = Dense(dim, dtype=self.dtype, name="attn_out_proj")(a)
        out += Dense(dim, dtype=self.dtype, name="mlp_out_proj")(m)
        residual = out.astype(jnp.float32)
        if self.layer_scale is not None:
            first = nn.initializers.constant(self.layer_scale)
            residual *= self.param("layer_scale", first, (dim,))
        if drop is not None:
            residual *= drop[:, None, None]
        return shard_batch(x + residual)


class MLP(nn.Module):
    """Two linear layers around an exact GELU."""

    hidden: int
    dtype: str = "float32"
    kernel_init: Any = decoder_init

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        y = Dense(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="fc1")(x)
        y = gelu(y)
        return Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name="fc2")(y)


class SwiGLU(nn.Module):
    """silu(gate) * up, then a linear layer; gate and up come of one product."""

    hidden: int
    dtype: str = "float32"
    kernel_init: Any = decoder_init

    @nn.compact
    def __call__(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        y = Dense(2 * self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="w12")(x)
        gate, up = jnp.split(y, 2, axis=-1)
        y = jax.nn.silu(gate.astype(jnp.float32)).astype(y.dtype) * up
        return Dense(x.shape[-1], dtype=self.dtype, kernel_init=self.kernel_init, name="w3")(y)


class PreNormBlock(nn.Module):
    """The ordinary block: x + attention(norm(x)), then x + MLP(norm(x)); biases everywhere.

    With `layer_scale`, both residuals are multiplied by factors of their own, which start there.
    """

    heads: int
    hidden: int
    epsilon: float = 1e-6
    attention: str = "auto"
    dtype: str = "float32"
    kernel_init: Any = decoder_init
    layer_scale: float | None = None
    mlp: str = "gelu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens dim"], rotation: Rotation | None = None
    ) -> Float[Array, "batch tokens dim"]:
        """Returns the new tokens; `rotation` turns queries and keys (`nn.rotary`)."""
        dim = x.shape[-1]
        y = LayerNorm(self.epsilon, name="norm1")(x)
        qkv = Dense(3 * dim, dtype=self.dtype, kernel_init=self.kernel_init, name="qkv")(y)
        q, k, v = (split_heads(part, self.heads) for part in jnp.split(qkv, 3, axis=-1))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        a = merge_heads(attention(q, k, v, backend=self.attention))
        y = Dense(dim, dtype=self.dtype, kernel_init=self.kernel_init, name="proj")(a)
        x += self._scaled(y, "layer_scale1")
        y = LayerNorm(self.epsilon, name="norm2")(x)
        mlp = SwiGLU if self.mlp == "swiglu" else MLP
        y = mlp(self.hidden, dtype=self.dtype, kernel_init=self.kernel_init, name="mlp")(y)
        return shard_batch(x + self._scaled(y, "layer_scale2"))

    def _scaled(
        self, residual: Float[Array, "batch tokens dim"], name: str
    ) -> Float[Array, "batch tokens dim"]:
        if self.layer_scale is None:
            return residual
        first = nn.initializers.constant(self.layer_scale)
        return residual.astype(jnp.float32) * self.param(name, first, residual.shape[-1:])


class CrossAttention(nn.Module):
    """Attention of queries to a context; no bias on queries, keys and values."""

    heads: int
    attention: str = "auto"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch queries dim"],
        context: Float[Array, "batch keys dim"],
    ) -> Float[Array, "batch queries dim"]:
        dim = x.shape[-1]

        def project(name: str, features: int, bias: bool) -> Dense:
            return Dense(
                features, use_bias=bias, dtype=self.dtype, kernel_init=decoder_init, name=name
            )

        q = split_heads(project("q", dim, False)(x), self.heads)
        kv = project("kv", 2 * dim, False)(context)
        k, v = (split_heads(part, self.heads) for part in jnp.split(kv, 2, axis=-1))
        return project("proj", dim, True)(merge_heads(attention(q, k, v, backend=self.attention)))
