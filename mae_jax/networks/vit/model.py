"""The ordinary vision transformer, in timm's arrangement: ImageNet baselines and classifiers.

Weakly supervised classifiers (Section 4.1) are this network with `classes`; their embedding is
the class token after the final norm.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mae_jax.errors import InputError
from mae_jax.networks.channels import check_num_channels
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.nn.apply_blocks import apply_blocks, init_block
from mae_jax.nn.blocks import Dense, LayerNorm, PreNormBlock, backbone_init, patch_init
from mae_jax.nn.patches import patch_grid, patchify
from mae_jax.nn.pooling import pool


class ViT(nn.Module):
    """Standardized images to tokens (class token first, after the final norm) or logits."""

    config: ViTConfig

    def setup(self) -> None:
        config = self.config
        self.patch_embed = Dense(config.width, dtype=config.dtype, kernel_init=patch_init)
        self.cls_token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, config.width))
        self.pos_embed = self.param(
            "pos_embed", nn.initializers.normal(0.02), (1, 1 + config.grid**2, config.width)
        )
        self.block = PreNormBlock(
            heads=config.heads,
            hidden=round(config.width * config.mlp_ratio),
            epsilon=config.norm_eps,
            attention=config.attention,
            dtype=config.dtype,
            kernel_init=backbone_init,
            parent=None,
        )
        self.block_params = [
            self.param(f"block_{i:02d}", lambda key: init_block(self.block, key, config.width))
            for i in range(config.depth)
        ]
        if config.fc_norm:
            self.fc_norm = LayerNorm(config.norm_eps)
        else:
            self.norm = LayerNorm(config.norm_eps)
        if config.classes:
            self.head = Dense(config.classes, dtype=config.dtype, kernel_init=backbone_init)

    def __call__(
        self, images: Float[Array, "batch channels height width"], *, block: int | None = None
    ) -> Float[Array, "batch tokens {self.config.width}"]:
        """All tokens after the final norm; with `block` or `fc_norm`, before any norm.

        Raises:
          InputError: a wrong number of channels, a size that the patch does not divide, or no
            such block.
        """
        config = self.config
        check_num_channels(images, config.channels)
        if block is not None and not -config.depth <= block < config.depth:
            raise InputError(f"there is no block {block}: blocks are 0 to {config.depth - 1}.")
        rows, columns = patch_grid(images.shape[2], images.shape[3], config.patch)
        patches = patchify(images, config.patch, channel_agnostic=False)
        x = self.patch_embed(patches).astype(jnp.float32)
        first = jnp.broadcast_to(self.cls_token, (x.shape[0], 1, config.width))
        x = jnp.concatenate([first, x], axis=1) + self._positions(rows, columns)
        x = apply_blocks(
            lambda params, x, _: self.block.apply({"params": params}, x),
            self.block_params[: config.depth if block is None else block % config.depth + 1],
            x,
            remat=config.remat,
            scan=config.scan,
        )
        if self.is_initializing() and config.classes:
            self.head(x[:, 0])
        normed = self.fc_norm(x) if config.fc_norm else self.norm(x)
        return x if config.fc_norm or block is not None else normed

    def embed(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        pooling: str,
        block: int | None = None,
    ) -> Float[Array, "batch {self.config.width}"]:
        """Pooled tokens; the mean of the last block's goes through `fc_norm`, if there is one."""
        pooled = pool(self(images, block=block), pooling)
        has_norm = self.config.fc_norm and pooling == "mean" and block is None
        return self.fc_norm(pooled) if has_norm else pooled

    def logits(
        self, images: Float[Array, "batch channels height width"]
    ) -> Float[Array, "batch classes"]:
        """The classifier's outputs, from the class token or through `fc_norm` from the mean.

        Raises:
          InputError: the network has no classifier.
        """
        if not self.config.classes:
            raise InputError("this network has no classifier; set classes.")
        pooling = "mean" if self.config.fc_norm else "class"
        return self.head(self.embed(images, pooling=pooling)).astype(jnp.float32)

    def _positions(self, rows: int, columns: int) -> jax.Array:
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return jnp.asarray(self.pos_embed)
        table = self.pos_embed[0, 1:].reshape(grid, grid, -1)
        resized = jax.image.resize(table, (rows, columns, table.shape[-1]), "bicubic")
        flat = resized.reshape(1, rows * columns, -1)
        return jnp.concatenate([self.pos_embed[:, :1], flat], axis=1)
