"""The vision transformer of the paper, over joint or single channels (Section 4.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from mae_jax.distributed.sharding_context import shard_batch
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.nn.apply_blocks import apply_blocks, init_block
from mae_jax.nn.blocks import Dense, LayerNorm, ParallelBlock, patch_init
from mae_jax.nn.patches import patch_grid, patchify
from mae_jax.nn.pos_embed import sincos_pos_embed


class ParallelViT(nn.Module):
    """Self-standardized images to tokens: one class token, then the patches, channel-major.

    Parameters: `patch_embed/{kernel, bias}`, `cls_token` and `block_00`, `block_01`, … The table
    of positions is no parameter: it is made for the grid and the channels of each call.
    """

    config: ParallelViTConfig

    def setup(self) -> None:
        config = self.config
        self.patch_embed = Dense(config.width, dtype=config.dtype, kernel_init=patch_init)
        self.cls_token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, config.width))
        # Detached from this module, so that a loop, a map or a recomputation can apply it to
        # any of the parameter trees.
        self.block = ParallelBlock(
            heads=config.heads,
            hidden=config.hidden,
            layer_scale=config.layer_scale,
            qk_norm=config.qk_norm,
            bias_layout=config.bias_layout,
            epsilon=config.norm_eps,
            attention=config.attention,
            dtype=config.dtype,
            parent=None,
        )
        self.block_params = [
            self.param(f"block_{i:02d}", lambda key: init_block(self.block, key, config.width))
            for i in range(config.depth)
        ]
        if config.final_norm:
            self.norm = LayerNorm(config.norm_eps)

    def __call__(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        train: bool = False,
        block: int | None = None,
    ) -> Float[Array, "batch tokens {self.config.width}"]:
        """All tokens of whole images, class token first.

        Args:
          images: self-standardized; any number of channels where channel-agnostic.
          train: draws stochastic depth from the rng "drop_path".
          block: stop after this block (0 is the first, -1 the last); None runs all.

        Raises:
          InputError: a size that the patch does not divide, a wrong number of channels, or no
            such block.
        """
        patches, positions = self.patchify(images)
        return self.encode(
            self.embed_patches(patches, jnp.asarray(positions)), train=train, block=block
        )

    def patchify(
        self, images: Float[Array, "batch channels height width"]
    ) -> tuple[
        Float[Array, "batch tokens pixels"], Float[np.ndarray, "tokens {self.config.width}"]
    ]:
        """The patches of images, and their rows of the table of positions."""
        config = self.config
        channels, height, width = images.shape[1:]
        if not config.channel_agnostic and channels != len(config.channels):
            raise InputError(
                f"this encoder takes {len(config.channels)} channels "
                f"({', '.join(config.channels)}), not {channels}."
            )
        rows, columns = patch_grid(height, width, config.patch)
        patches = patchify(images, config.patch, channel_agnostic=config.channel_agnostic)
        repeats = channels if config.channel_agnostic else 1
        return patches, sincos_pos_embed(rows, columns, config.width, channels=repeats)

    def embed_patches(
        self,
        patches: Float[Array, "batch tokens pixels"],
        positions: Float[Array, "tokens dim"] | Float[Array, "batch tokens dim"],
    ) -> Float[Array, "batch tokens+1 dim"]:
        """Projects patches, adds their positions, puts the class token in front."""
        tokens = self.patch_embed(patches).astype(jnp.float32) + positions
        first = jnp.broadcast_to(self.cls_token, (tokens.shape[0], 1, self.config.width))
        return shard_batch(jnp.concatenate([first, tokens], axis=1))

    def encode(
        self,
        tokens: Float[Array, "batch tokens dim"],
        *,
        train: bool = False,
        block: int | None = None,
    ) -> Float[Array, "batch tokens dim"]:
        """The blocks up to and with `block`; after all of them the final norm, if there is one."""
        count = self.config.depth if block is None else self._index(block) + 1
        drop = self._drop_path(tokens.shape[0])[:count] if train and self.config.drop_path else None
        tokens = apply_blocks(
            self._apply,
            self.block_params[:count],
            tokens,
            drop,
            remat=self.config.remat,
            scan=self.config.scan,
        )
        if not self.config.final_norm:
            return tokens
        normed = self.norm(tokens)
        return normed if block is None else tokens

    def attention_maps(
        self, images: Float[Array, "batch channels height width"], *, block: int = -1
    ) -> Float[Array, "batch {self.config.heads} tokens tokens"]:
        """Softmax weights [query, key] of one block; token 0 is the class token."""
        index = self._index(block)
        patches, positions = self.patchify(images)
        tokens = self.embed_patches(patches, jnp.asarray(positions))
        for params in self.block_params[:index]:
            tokens = self._apply(params, tokens, None)
        weights = self.block.apply(
            {"params": self.block_params[index]}, tokens, return_weights=True
        )
        assert isinstance(weights, jax.Array)
        return weights

    def _apply(self, params: PyTree, tokens: jax.Array, drop: jax.Array | None) -> jax.Array:
        result = self.block.apply({"params": params}, tokens, drop)
        assert isinstance(result, jax.Array)
        return result

    def _index(self, block: int) -> int:
        depth = self.config.depth
        if not -depth <= block < depth:
            raise InputError(
                f"there is no block {block}: this encoder has blocks 0 to {depth - 1}."
            )
        return block % depth

    def _drop_path(self, batch: int) -> Float[Array, "depth {batch}"]:
        depth = self.config.depth
        keep = 1 - jnp.linspace(0.0, self.config.drop_path, depth)[:, None]
        kept = jax.random.bernoulli(self.make_rng("drop_path"), keep, (depth, batch))
        return kept / keep
