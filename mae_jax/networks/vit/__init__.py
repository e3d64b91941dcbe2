"""The ordinary vision transformer: ImageNet baselines and classifiers."""

from mae_jax.networks.vit.config import ViTConfig, vit_config
from mae_jax.networks.vit.model import ViT

__all__ = ["ViT", "ViTConfig", "vit_config"]
