"""Networks: pure functions of parameters and images; nothing here knows of training or files."""

from mae_jax.models.config import (
    DecoderConfig,
    EncoderConfig,
    MAEConfig,
    encoder_config,
    mae_config,
)
from mae_jax.models.encoder import ViT
from mae_jax.models.mae import MAE, MAEOutput
from mae_jax.models.reconstruction import Reconstruction, predict_channels, reconstruct
from mae_jax.models.standardize import self_standardize

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
