"""Encoders that are no masked transformers: ImageNet and supervised ViTs, DenseNets, MU-Nets."""

import json
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mae_jax.config import to_dict
from mae_jax.errors import InputError
from mae_jax.networks.densenet.model import DenseNet, DenseNetConfig, domain_statistics
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.unet.model import MUNet, UNetConfig
from mae_jax.networks.vit.model import ViT, ViTConfig
from mae_jax.weights.preprocessing import Preprocessing


class _NetworkEncoder(Encoder):
    """What the three have in common."""

    def __init__(
        self,
        config: Any,
        params: dict[str, Any],
        preprocessing: Preprocessing,
        *,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.preprocessing = preprocessing
        self.name = name or self._default_name()

    def _default_name(self) -> str:
        raise NotImplementedError

    def architecture(self) -> str:
        """The network's configuration as JSON."""
        record = to_dict(self.config)
        # Later fields, whose defaults keep the fingerprints of earlier versions.
        for name, default in (("norm_eps", 1e-6), ("fc_norm", False)):
            if record.get(name) == default:
                del record[name]
        return json.dumps(record, sort_keys=True)

    def _standardized(self, pixels: jax.Array) -> jax.Array:
        return self.preprocessing.standardize(pixels)

    def _no_blocks(self, block: int | None) -> None:
        if block is not None:
            raise InputError(f"the encoder '{self.name}' has no blocks to stop after.")


class ViTEncoder(_NetworkEncoder):
    """An ordinary ViT: the ImageNet baselines and the supervised ViTs.

    "class" (what the paper takes of its supervised ones) and "mean" are those of the final norm;
    with `fc_norm`, "mean" alone is normalized.
    """

    poolings = ("class", "mean")
    config: ViTConfig

    def _default_name(self) -> str:
        return f"ViT {self.config.width}/{self.config.patch}"

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`."""
        self.check_pooling(pooling)
        images = self._standardized(pixels)
        embedding: Any = ViT(self.config).apply(
            {"params": params}, images, pooling=pooling, block=block, method=ViT.embed
        )
        return embedding

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The token's length."""
        return self.config.width


class DenseNetEncoder(_NetworkEncoder):
    """A supervised DenseNet: the neck's second layer. `params` hold the batch statistics too."""

    poolings = ("mean",)
    config: DenseNetConfig

    def _default_name(self) -> str:
        return "DenseNet" + (" with AdaBN" if self.config.norm == "adabn" else "")

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`; there is one pooling and there are no blocks."""
        self.check_pooling(pooling)
        self._no_blocks(block)
        embedding: Any = DenseNet(self.config).apply(params, self._standardized(pixels))
        return embedding.astype(jnp.float32)

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The neck's second width."""
        return self.config.embedding_dims[1]

    def with_adabn(
        self, batches: Num[Array, "batches batch channels height width"]
    ) -> "DenseNetEncoder":
        """This encoder with the batch statistics of one domain: AdaBN at inference.

        Args:
          batches: raw crops of that domain alone (a plate), in batches that divide by `ghost`.
        """
        statistics = domain_statistics(
            DenseNet(self.config), self.params, self._standardized(batches)
        )
        params = {**self.params, "batch_stats": statistics}
        return DenseNetEncoder(self.config, params, self.preprocessing, name=self.name)


class MUNetEncoder(_NetworkEncoder):
    """A masked U-Net: the mean over places of its deepest level."""

    poolings = ("mean",)
    config: UNetConfig

    def _default_name(self) -> str:
        return f"MU-Net {self.config.widths[-1]}"

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`; there is one pooling and there are no blocks."""
        self.check_pooling(pooling)
        self._no_blocks(block)
        images = self._standardized(pixels)
        features: Any = MUNet(self.config).apply({"params": params}, images, method=MUNet.embed)
        return features

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The deepest level's channels."""
        return self.config.widths[-1]
