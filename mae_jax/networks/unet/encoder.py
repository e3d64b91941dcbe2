"""The encoder of MU-Nets."""

import json
from typing import Any

from jaxtyping import Array, Float, Num, PyTree

from mae_jax.config import to_dict
from mae_jax.networks.encoder import NetworkEncoder
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.unet.model import UNet


class UNetEncoder(NetworkEncoder):
    """A masked U-Net: the spatial mean of its deepest level."""

    poolings = ("mean",)
    config: UNetConfig

    def default_name(self) -> str:
        """See `NetworkEncoder.default_name`."""
        return f"MU-Net {self.config.widths[-1]}"

    def architecture(self) -> str:
        """The config as JSON with the keys of version 0.1, so that old fingerprints stay valid."""
        return json.dumps(to_dict(self.config) | {"fourier_weight": 0.0}, sort_keys=True)

    def forward(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`; there is one pooling and there are no blocks."""
        self.check_pooling(pooling)
        self.check_no_block(block)
        images = self.preprocessing.standardize(pixels)
        features: Any = UNet(self.config).apply({"params": params}, images, method=UNet.embed)
        return features

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The deepest level's channels."""
        return self.config.widths[-1]
