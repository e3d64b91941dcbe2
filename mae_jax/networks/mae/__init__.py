"""Networks: pure functions of parameters and images; nothing here knows of training or files."""

from mae_jax.networks.mae.config import (
    DecoderConfig,
    EncoderConfig,
    MAEConfig,
    encoder_config,
    mae_config,
)
from mae_jax.networks.mae.model import MAE, MAEOutput
from mae_jax.networks.mae.parallel_vit import ViT
from mae_jax.networks.mae.reconstruction import Reconstruction, predict_channels, reconstruct
from mae_jax.nn.standardize import self_standardize

__all__ = [
    "MAE",
    "DecoderConfig",
    "EncoderConfig",
    "MAEConfig",
    "MAEOutput",
    "Reconstruction",
    "ViT",
    "encoder_config",
    "mae_config",
    "predict_channels",
    "reconstruct",
    "self_standardize",
]
