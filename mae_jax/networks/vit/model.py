"""The ordinary vision transformer: ImageNet baselines, classifiers, and the published encoders.

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
from mae_jax.nn.blocks import Dense, LayerNorm, PreNormBlock, backbone_init, gelu, patch_init
from mae_jax.nn.patches import patch_grid, patchify
from mae_jax.nn.pooling import pool
from mae_jax.nn.position_resize import resize_positions
from mae_jax.nn.rotary import rotation


class ViT(nn.Module):
    """Standardized images to tokens (class token, registers, patches; after the final norm)."""

    config: ViTConfig

    def setup(self) -> None:
        config = self.config
        self.patch_embed = Dense(config.width, dtype=config.dtype, kernel_init=patch_init)
        self.cls_token = self.param("cls_token", nn.initializers.normal(1e-6), (1, 1, config.width))
        if config.positions == "learned":
            self.pos_embed = self.param(
                "pos_embed", nn.initializers.normal(0.02), (1, 1 + config.grid**2, config.width)
            )
        if config.registers:
            self.register_tokens = self.param(
                "register_tokens",
                nn.initializers.normal(1e-6),
                (1, config.registers, config.width),
            )
        self.block = PreNormBlock(
            heads=config.heads,
            hidden=round(config.width * config.mlp_ratio),
            epsilon=config.norm_eps,
            attention=config.attention,
            dtype=config.dtype,
            kernel_init=backbone_init,
            layer_scale=config.layer_scale,
            mlp=config.mlp,
            parent=None,
        )
        self.block_params = [
            self.param(f"block_{i:02d}", lambda key: init_block(self.block, key, config.width))
            for i in range(config.depth)
        ]
        if config.fc_norm:
            self.fc_norm = LayerNorm(config.norm_eps)
        elif config.final_norm:
            self.norm = LayerNorm(config.norm_eps)
        if config.pooler_heads:
            self.pooler = GatedPooler(config.pooler_heads, config.pooler_hidden, config.dtype)
        if config.classes:
            self.head = Dense(config.classes, dtype=config.dtype, kernel_init=backbone_init)

    def __call__(
        self, images: Float[Array, "batch channels height width"], *, block: int | None = None
    ) -> Float[Array, "batch tokens {self.config.width}"]:
        """All tokens after the final norm, if it has one; with `block` or `fc_norm`, before any.

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
        x = self._with_prefix(self.patch_embed(patches).astype(jnp.float32), rows, columns)
        turned = None
        if config.positions == "rotary":
            prefix = 1 + config.registers
            turned = rotation(rows, columns, config.width // config.heads, prefix)
        x = apply_blocks(
            lambda params, x, _: self.block.apply({"params": params}, x, turned),
            self.block_params[: config.depth if block is None else block % config.depth + 1],
            x,
            remat=config.remat,
            scan=config.scan,
        )
        if self.is_initializing():
            if config.classes:
                self.head(x[:, 0])
            if config.pooler_heads:
                self.pooler(x)
        if config.fc_norm:
            self.fc_norm(x)  # a submodule exists once it was called
            return x
        if not config.final_norm:
            return x
        normed = self.norm(x)
        return x if block is not None else normed

    def embed(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        pooling: str,
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """Pooled tokens; the mean of the last block's goes through `fc_norm`, if there is one.

        Args:
          pooling: "class", "mean", or with a pooler "attention".
        """
        tokens = self(images, block=block)
        if pooling == "attention":
            return self.pooler(tokens)
        patches = tokens[:, 1 + self.config.registers :]
        pooled = pool(jnp.concatenate([tokens[:, :1], patches], axis=1), pooling)
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

    def _with_prefix(
        self, patches: Float[Array, "batch patches dim"], rows: int, columns: int
    ) -> Float[Array, "batch tokens dim"]:
        """Class token, registers and patches, each with its position."""
        config, batch = self.config, patches.shape[0]
        first = jnp.asarray(self.cls_token)
        if config.positions == "learned":
            table = jnp.asarray(self.pos_embed)[0, 1:].reshape(config.grid, config.grid, -1)
            table = resize_positions(table, rows, columns, config.position_resize)
            patches += table.reshape(1, rows * columns, -1)
            first += self.pos_embed[:, :1]
        parts = [first, self.register_tokens] if config.registers else [first]
        prefix = [jnp.broadcast_to(p, (batch, *p.shape[1:])) for p in parts]
        return jnp.concatenate([*prefix, patches], axis=1)


class GatedPooler(nn.Module):
    """Weighted means of all tokens, one per head, concatenated: gated attention (Ilse et al.).

    weights = softmax over tokens of W (tanh(V x) * gelu(U x)).
    """

    heads: int
    hidden: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch features"]:
        v = jnp.tanh(Dense(self.hidden, dtype=self.dtype, name="v")(x).astype(jnp.float32))
        u = gelu(Dense(self.hidden, dtype=self.dtype, name="u")(x)).astype(jnp.float32)
        scores = Dense(self.heads, dtype=self.dtype, name="w")(v * u).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=1)
        return jnp.einsum("bth,btd->bhd", weights, x).reshape(x.shape[0], -1)
