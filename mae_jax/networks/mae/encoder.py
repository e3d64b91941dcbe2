"""Encoders of masked autoencoders, joint and channel-agnostic."""

import json
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Num, PyTree

from mae_jax.config import to_dict
from mae_jax.errors import InputError
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.mae.reconstruction import Reconstruction, predict_channels, reconstruct
from mae_jax.nn.pooling import pool
from mae_jax.weights.preprocessing import Preprocessing

# On the device or still on the host.
Pixels = Num[Array, "batch channels height width"] | Num[np.ndarray, "batch channels height width"]


class MAEEncoder(Encoder):
    """The encoder of a masked autoencoder; with its decoder, it also draws reconstructions.

    Attributes:
      config: the masked autoencoder's, or the encoder's alone.
      params: the encoder's alone.
      mae_params: all parameters, or None where the decoder was not kept.
    """

    def __init__(
        self,
        config: MAEConfig | ParallelViTConfig,
        params: dict[str, Any],
        preprocessing: Preprocessing,
        *,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.preprocessing = preprocessing
        if isinstance(config, MAEConfig):
            self.encoder_config = config.encoder
            self.mae_params: dict[str, Any] | None = params
            self.params = params["encoder"]
        else:
            self.encoder_config = config
            self.mae_params = None
            self.params = params
        kind = "CA-MAE" if self.encoder_config.channel_agnostic else "MAE"
        self.name = name or f"{kind} {self.encoder_config.width}/{self.encoder_config.patch}"
        self.model = ParallelViT(self.encoder_config)

    def forward(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """Embeds raw pixels with the parameters of the encoder alone (see `Encoder.forward`)."""
        tokens = self.tokens(params, pixels, block=block)
        channels = pixels.shape[1] if self.encoder_config.channel_agnostic else 1
        return pool(tokens, pooling, channels)

    def tokens(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        block: int | None = None,
    ) -> Float[Array, "batch tokens dim"]:
        """Features of every token (class token first, then channel-major) after `block`."""
        images = self.preprocessing.standardize(pixels)
        tokens: Any = self.model.apply({"params": params}, images, block=block)
        return tokens

    def attention_maps(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        block: int = -1,
    ) -> Float[Array, "batch heads tokens tokens"]:
        """Softmax weights [query, key] of one block; token 0 is the class token."""
        images = self.preprocessing.standardize(pixels)
        maps: Any = self.model.apply(
            {"params": params}, images, block=block, method=ParallelViT.attention_maps
        )
        return maps

    def width(self, channels: int, pooling: str = "mean") -> int:
        """Number of features: the token's length, times channels for the pooling "channel"."""
        self.check_pooling(pooling)
        repeats = channels if pooling == "channel" and self.encoder_config.channel_agnostic else 1
        return repeats * self.encoder_config.width

    def microbatch_size(self, channels: int, height: int, width: int) -> int:
        """About a thousand tokens: with fewer, products are too small to be quick."""
        patches = height * width // self.encoder_config.patch**2
        tokens = 1 + patches * (channels if self.encoder_config.channel_agnostic else 1)
        return max(1, 1280 // tokens)

    def architecture(self) -> str:
        """The encoder's configuration as JSON, less what does not change its output."""
        record = to_dict(self.encoder_config)
        for name in ("attention", "remat", "scan", "drop_path"):
            del record[name]
        # Later fields, whose defaults keep the fingerprints of earlier versions.
        for name, default in (("norm_eps", 1e-6), ("final_norm", False)):
            if record[name] == default:
                del record[name]
        return json.dumps(record, sort_keys=True)

    def reconstruct(
        self,
        pixels: Pixels,
        *,
        channels: tuple[str, ...] | None = None,
        seed: int = 0,
        mask_ratio: float | None = None,
    ) -> Reconstruction:
        """Masks crops at random and reconstructs them, in standardized units.

        Args:
          channels: names of the crops' channels; None means those of training.

        Raises:
          InputError: the decoder was not kept, or the channels do not fit.
        """
        model, params = self._mae()
        images = self.preprocessing.standardize(pixels)
        return reconstruct(
            model,
            params,
            images,
            channels=channels,
            rng=jax.random.key(seed),
            mask_ratio=mask_ratio,
        )

    def predict_channels(
        self,
        pixels: Pixels,
        *,
        given: tuple[str, ...],
        missing: tuple[str, ...] | None = None,
    ) -> Float[Array, "batch missing height width"]:
        """Predicts stains that were not imaged, in standardized units.

        Raises:
          InputError: the decoder was not kept, or the channels do not fit.
        """
        model, params = self._mae()
        images = self.preprocessing.standardize(pixels)
        return predict_channels(model, params, images, given=given, missing=missing)

    def _mae(self) -> tuple[MAE, dict[str, Any]]:
        if self.mae_params is None or not isinstance(self.config, MAEConfig):
            raise InputError(f"the encoder '{self.name}' was saved without its decoder.")
        return MAE(self.config), self.mae_params
