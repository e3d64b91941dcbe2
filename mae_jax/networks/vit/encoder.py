"""The encoder of ordinary vision transformers."""

from typing import Any

from jaxtyping import Array, Float, Num, PyTree

from mae_jax.networks.encoder import NetworkEncoder
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.networks.vit.model import ViT


class ViTEncoder(NetworkEncoder):
    """An ordinary ViT: the ImageNet baselines and the supervised ViTs.

    "class" (what the paper takes of its supervised ones) and "mean" are those of the final norm;
    with `fc_norm`, "mean" alone is normalized.
    """

    poolings = ("class", "mean")
    config: ViTConfig

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
        """The token's length."""
        return self.config.width
