"""Masked autoencoders, joint (He et al.) and channel-agnostic (Section 4.2.2)."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import MAEConfig
from mae_jax.networks.mae.decoders import ChannelDecoder, JointDecoder
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.nn.blocks import Dense, decoder_init
from mae_jax.nn.masking import (
    Masking,
    noise_from_mask,
    num_keep,
    random_masking,
    take_tokens,
)
from mae_jax.nn.patches import patch_grid
from mae_jax.nn.pos_embed import sincos_pos_embed


class MAEOutput(NamedTuple):
    """The output of a masked autoencoder: predictions and targets.

    Attributes:
      prediction: predicted patches.
      target: the same patches of the standardized image.
      loss_mask: 1 where a predicted patch was masked, 0 where the encoder saw it.
      mask: over all tokens in position order, 1 where masked.
      patch_ids: the position of each predicted patch.
    """

    prediction: Float[Array, "batch predicted pixels"]
    target: Float[Array, "batch predicted pixels"]
    loss_mask: Float[Array, "batch predicted"]
    mask: Float[Array, "batch tokens"]
    patch_ids: Int[Array, "batch predicted"]


class MAE(nn.Module):
    """Encoder, decoder and prediction head.

    Parameters: `encoder/…` (those of a `ParallelViT`, usable alone), `encoder_decoder_proj`,
    `decoder/…` and `decoder_pred`.
    """

    config: MAEConfig

    def setup(self) -> None:
        encoder, decoder = self.config.encoder, self.config.decoder
        self.encoder = ParallelViT(encoder)
        self.encoder_decoder_proj = Dense(
            decoder.width, dtype=encoder.dtype, kernel_init=decoder_init
        )
        options: dict[str, Any] = {
            "attention": encoder.attention,
            "dtype": encoder.dtype,
            "remat": encoder.remat,
            "scan": encoder.scan,
        }
        pixels = encoder.patch**2
        if encoder.channel_agnostic:
            self.decoder: Any = ChannelDecoder(decoder, len(encoder.channels), **options)
        else:
            self.decoder = JointDecoder(decoder, **options)
            pixels *= len(encoder.channels)
        self.decoder_pred = Dense(pixels, dtype=encoder.dtype, kernel_init=decoder_init)

    def __call__(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        channels: Sequence[str] | None = None,
        noise: Float[Array, "batch tokens"] | Float[np.ndarray, "batch tokens"] | None = None,
        mask_ratio: float | None = None,
        keep_mask: Bool[Array, "batch tokens"] | Bool[np.ndarray, "batch tokens"] | None = None,
        predict: Literal["masked", "all"] = "masked",
        train: bool = False,
    ) -> MAEOutput:
        """Masks, encodes what is left, and predicts patches.

        The joint model gathers patches into the mask's order before it embeds them and stays in
        that order; the channel-agnostic one gathers the kept patches. Nothing differentiable is
        ever indexed in a way whose gradient is a scatter.

        Args:
          images: self-standardized.
          channels: names of the images' channels, in their order (static); None means all of the
            config's. Channel-agnostic models take any part of them in any order.
          noise: uniform noise that orders the tokens; None draws it from the rng "mask".
          mask_ratio: replaces the config's.
          keep_mask: a given mask, True where the encoder may see the token. Every sample must
            keep the same number; under `jax.jit` give `mask_ratio` too.
          predict: "masked" predicts no more than the loss needs (the joint decoder's masked
            tail; the channel-agnostic one predicts all in any case), "all" predicts every token.
          train: stochastic depth, from the rng "drop_path".

        Raises:
          InputError: sizes, channels or a keep mask that do not fit.
        """
        ratio = self.config.mask_ratio if mask_ratio is None else mask_ratio
        indices = self._channel_indices(channels, images.shape[1])
        patches, positions = self.encoder.patchify(images)
        batch, count = patches.shape[:2]
        if keep_mask is not None:
            noise, kept = noise_from_mask(keep_mask, count, mask_ratio)
        else:
            kept = num_keep(count, ratio)
            if noise is None:
                noise = jax.random.uniform(self.make_rng("mask"), (batch, count))
            if noise.shape != (batch, count):
                raise InputError(
                    f"noise must be of shape {(batch, count)}, one number per token, "
                    f"not {tuple(noise.shape)}."
                )
        masking = random_masking(jnp.asarray(noise), kept)
        if self.config.encoder.channel_agnostic:
            prediction = self._forward_channel_agnostic(
                images, patches, positions, masking, kept, indices, train
            )
            ids = jnp.broadcast_to(jnp.arange(count), (batch, count))
            return MAEOutput(prediction, patches, masking.mask, masking.mask, ids)
        first = 0 if predict == "all" else kept
        patches = take_tokens(patches, masking.ids_shuffle)
        prediction = self._forward_joint(images, patches, positions, masking, kept, first, train)
        weight = jnp.broadcast_to(jnp.arange(first, count) >= kept, (batch, count - first))
        return MAEOutput(
            prediction,
            patches[:, first:],
            weight.astype(jnp.float32),
            masking.mask,
            masking.ids_shuffle[:, first:],
        )

    def _forward_joint(
        self,
        images: jax.Array,
        patches: jax.Array,
        positions: np.ndarray,
        masking: Masking,
        kept: int,
        first: int,
        train: bool,
    ) -> Float[Array, "batch predicted pixels"]:
        seen = jnp.asarray(positions)[masking.ids_shuffle[:, :kept]]
        tokens = self.encoder.encode(
            self.encoder.embed_patches(patches[:, :kept], seen), train=train
        )
        rows, columns = patch_grid(images.shape[2], images.shape[3], self.config.encoder.patch)
        table = jnp.asarray(sincos_pos_embed(rows, columns, self.config.decoder.width))
        decoded = self.decoder(self.encoder_decoder_proj(tokens), table[masking.ids_shuffle])
        return self.decoder_pred(decoded[:, first:]).astype(jnp.float32)

    def _forward_channel_agnostic(
        self,
        images: jax.Array,
        patches: jax.Array,
        positions: np.ndarray,
        masking: Masking,
        kept: int,
        indices: tuple[int, ...],
        train: bool,
    ) -> Float[Array, "batch predicted pixels"]:
        ids = masking.ids_shuffle[:, :kept]
        tokens = self.encoder.embed_patches(take_tokens(patches, ids), jnp.asarray(positions)[ids])
        tokens = self.encoder.encode(tokens, train=train)
        rows, columns = patch_grid(images.shape[2], images.shape[3], self.config.encoder.patch)
        table = jnp.asarray(sincos_pos_embed(rows, columns, self.config.decoder.width))
        projected = self.encoder_decoder_proj(tokens[:, 1:])
        return self.decoder_pred(self.decoder(projected, masking, table, indices)).astype(
            jnp.float32
        )

    def _channel_indices(self, channels: Sequence[str] | None, given: int) -> tuple[int, ...]:
        known = self.config.encoder.channels
        names = known if channels is None else tuple(channels)
        if len(names) != given:
            raise InputError(
                f"the images have {given} channels, but {len(names)} are named "
                f"({', '.join(names)}); name the images' channels in their order."
            )
        if not self.config.encoder.channel_agnostic and names != known:
            raise InputError(
                f"this model takes the channels {', '.join(known)} in that order, "
                f"not {', '.join(names)}."
            )
        for name in names:
            if name not in known:
                raise InputError(
                    f"no decoder was trained for channel '{name}': {nearest(name, known)}"
                )
        if len(set(names)) != len(names):
            raise InputError(f"channels are named twice: {', '.join(names)}.")
        return tuple(known.index(name) for name in names)
