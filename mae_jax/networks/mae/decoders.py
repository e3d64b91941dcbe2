"""Decoders: kept tokens to a token for every patch, jointly or with blocks for each channel."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mae_jax.networks.mae.config import DecoderConfig
from mae_jax.nn.apply_blocks import apply_blocks, init_block
from mae_jax.nn.blocks import MLP, CrossAttention, LayerNorm, PreNormBlock
from mae_jax.nn.masking import Masking, unshuffle


class JointDecoder(nn.Module):
    """The decoder of He et al.: ordinary blocks over the class token and all patches.

    It works in the order of the mask (kept first, then masked): attention does not care, and
    no token has to be moved back.
    """

    config: DecoderConfig
    attention: str = "auto"
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False

    def setup(self) -> None:
        config = self.config
        self.mask_token = self.param("mask_token", nn.initializers.zeros, (1, 1, config.width))
        self.block = PreNormBlock(
            heads=config.heads,
            hidden=round(config.width * config.mlp_ratio),
            epsilon=config.norm_eps,
            attention=self.attention,
            dtype=self.dtype,
            parent=None,
        )
        self.block_params = [
            self.param(f"block_{i:02d}", lambda key: init_block(self.block, key, config.width))
            for i in range(config.depth)
        ]
        self.norm = LayerNorm(config.norm_eps)

    def __call__(
        self,
        tokens: Float[Array, "batch seen dim"],
        positions: Float[Array, "batch all dim"],
    ) -> Float[Array, "batch all dim"]:
        """Decoded patches, in the order of `positions`.

        Args:
          tokens: the class token and the kept patches, projected to the decoder's width.
          positions: the table's rows in the mask's order, the kept ones first.
        """
        batch, all_patches, dim = positions.shape
        missing = all_patches + 1 - tokens.shape[1]
        filler = jnp.broadcast_to(self.mask_token, (batch, missing, dim))
        # The class token's row of the table is zero.
        patches = jnp.concatenate([tokens[:, 1:].astype(jnp.float32), filler], axis=1) + positions
        x = jnp.concatenate([tokens[:, :1].astype(jnp.float32), patches], axis=1)
        x = apply_blocks(
            lambda params, x, _: self.block.apply({"params": params}, x),
            self.block_params,
            x,
            remat=self.remat,
            scan=self.scan,
        )
        return self.norm(x[:, 1:])


class ChannelDecoder(nn.Module):
    """The channel-agnostic decoder: shared cross-attention, then blocks of each channel's own.

    For channel m: u = CrossAttention(LN(x_m), LN(x)); u = u + MLP(LN(u)); u = blocks_m(u). There
    is no residual around the cross-attention and no final norm, and the class token takes no part.

    The parameters of all channels' blocks lie stacked along a first axis, in the order of the
    config's channels, so that one batched product serves all channels.
    """

    config: DecoderConfig
    channels: int
    attention: str = "auto"
    dtype: str = "float32"
    remat: str = "none"
    scan: bool = False

    def setup(self) -> None:
        config = self.config
        hidden = round(config.width * config.mlp_ratio)
        zeros = nn.initializers.zeros
        self.mask_token = self.param("mask_token", zeros, (1, 1, config.width))
        self.channel_tokens = self.param("channel_tokens", zeros, (self.channels, config.width))
        self.query_norm = LayerNorm(config.norm_eps)
        self.context_norm = LayerNorm(config.norm_eps)
        self.out_norm = LayerNorm(config.norm_eps)
        self.cross_attention = CrossAttention(config.cross_heads, self.attention, self.dtype)
        self.mlp = MLP(hidden, dtype=self.dtype)
        self.block = PreNormBlock(
            heads=config.heads,
            hidden=hidden,
            epsilon=config.norm_eps,
            attention=self.attention,
            dtype=self.dtype,
            parent=None,
        )

        def init_all(rng: jax.Array) -> dict:
            rngs = jax.random.split(rng, self.channels)
            return jax.vmap(lambda key: init_block(self.block, key, config.width))(rngs)

        self.block_params = [self.param(f"block_{i:02d}", init_all) for i in range(config.depth)]

    def __call__(
        self,
        kept: Float[Array, "batch kept dim"],
        masking: Masking,
        positions: Float[Array, "patches dim"],
        channels: Sequence[int],
    ) -> Float[Array, "batch all dim"]:
        """Decoded patches of all given channels, channel-major in the order of `channels`.

        Args:
          kept: the kept patches, projected to the decoder's width (no class token).
          positions: the table of one channel.
          channels: the index of each given channel among the config's.
        """
        batch, count = kept.shape[0], len(channels)
        x = unshuffle(kept.astype(jnp.float32), self.mask_token[0, 0], masking)
        x = rearrange(x, "b (c n) d -> b c n d", c=count)
        x = x + positions + self._select(self.channel_tokens, channels)[:, None]
        x = rearrange(x, "b c n d -> b (c n) d")

        def shared(x: jax.Array) -> jax.Array:
            u = self.cross_attention(self.query_norm(x), self.context_norm(x))
            u = u.astype(jnp.float32)
            return u + self.mlp(self.out_norm(u))

        u = rearrange(shared(x), "b (c n) d -> c b n d", c=count)
        apply = jax.vmap(lambda params, u: self.block.apply({"params": params}, u))
        params = [
            jax.tree.map(lambda leaf: self._select(leaf, channels), block)
            for block in self.block_params
        ]
        u = apply_blocks(
            lambda params, u, _: apply(params, u), params, u, remat=self.remat, scan=self.scan
        )
        return rearrange(u, "c b n d -> b (c n) d", b=batch)

    def _select(self, leaf: jax.Array, channels: Sequence[int]) -> jax.Array:
        if tuple(channels) == tuple(range(self.channels)):
            return leaf
        # Slices, not an index array, whose gradient would be a scatter.
        return jnp.concatenate([jax.lax.slice_in_dim(leaf, i, i + 1) for i in channels])
