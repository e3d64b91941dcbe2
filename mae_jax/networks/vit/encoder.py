"""The encoder of ordinary vision transformers."""

from typing import Any

from jaxtyping import Array, Float, Num, PyTree

from mae_jax.networks.encoder import NetworkEncoder
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.networks.vit.model import ViT
from mae_jax.weights.preprocessing import Preprocessing


class ViTEncoder(NetworkEncoder):
    """An ordinary ViT: the ImageNet baselines, the supervised ViTs, and the published encoders.

    "class" (what the paper takes of its supervised ones) and "mean" are those of the final norm;
    with `fc_norm`, "mean" alone is normalized. Those with a pooler also have "attention".
    """

    config: ViTConfig

    def __init__(
        self,
        config: ViTConfig,
        params: dict[str, Any],
        preprocessing: Preprocessing,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(config, params, preprocessing, name=name)
        self.poolings = ("class", "mean", *(("attention",) if config.pooler_heads else ()))

    def default_name(self) -> str:
        """See `NetworkEncoder.default_name`."""
        return f"ViT {self.config.width}/{self.config.patch}"

    def forward(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`."""
        self.check_pooling(pooling)
        images = self.preprocessing.standardize(pixels)
        embedding: Any = ViT(self.config).apply(
            {"params": params}, images, pooling=pooling, block=block, method=ViT.embed
        )
        return embedding

    def width(self, channels: int, pooling: str = "mean") -> int:
        """The token's length, times the pooler's heads for "attention"."""
        self.check_pooling(pooling)
        return self.config.width * (self.config.pooler_heads if pooling == "attention" else 1)
