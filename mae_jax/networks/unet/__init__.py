"""Masked U-Nets (the paper's MU-Nets)."""

from mae_jax.networks.unet.config import UNetConfig, unet_config
from mae_jax.networks.unet.model import UNet, UNetOutput, unet_loss

__all__ = ["UNet", "UNetConfig", "UNetOutput", "unet_config", "unet_loss"]
