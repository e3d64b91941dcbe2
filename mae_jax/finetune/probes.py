"""Classifier heads on frozen or trained embeddings."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.kernels.attention import attention
from mae_jax.nn.blocks import Dense, LayerNorm, merge_heads, split_heads


class LinearProbe(nn.Module):
    """Logits from embeddings: a normalization without parameters, then one linear layer."""

    classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch dim"]) -> Float[Array, "batch classes"]:
        features = features.astype(jnp.float32)
        centered = features - features.mean(axis=-1, keepdims=True)
        normed = centered * jax.lax.rsqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + 1e-6)
        return Dense(self.classes)(normed)


class AttentiveProbe(nn.Module):
    """Logits from tokens: attention pooling by one learned query, then one linear layer."""

    classes: int
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch tokens dim"]) -> Float[Array, "batch classes"]:
        batch, _, dim = tokens.shape
        query = self.param("query", nn.initializers.normal(0.02), (1, 1, dim))
        normed = LayerNorm(name="norm")(tokens)
        k = split_heads(Dense(dim, name="key")(normed), self.heads)
        v = split_heads(Dense(dim, name="value")(normed), self.heads)
        q = split_heads(jnp.broadcast_to(query, (batch, 1, dim)), self.heads)
        pooled = merge_heads(attention(q, k, v))[:, 0]
        return Dense(self.classes, name="head")(LayerNorm(name="out_norm")(pooled))
