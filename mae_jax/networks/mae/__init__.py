"""Masked autoencoders, joint and channel-agnostic (MAE and CA-MAE)."""

from mae_jax.networks.mae.config import (
    DecoderConfig,
    MAEConfig,
    ParallelViTConfig,
    mae_config,
    parallel_vit_config,
)
from mae_jax.networks.mae.losses import mae_loss
from mae_jax.networks.mae.model import MAE, MAEOutput
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.mae.reconstruction import Reconstruction, predict_channels, reconstruct
from mae_jax.nn.standardize import self_standardize

__all__ = [
    "MAE",
    "DecoderConfig",
    "MAEConfig",
    "MAEOutput",
    "ParallelViT",
    "ParallelViTConfig",
    "Reconstruction",
    "mae_config",
    "mae_loss",
    "parallel_vit_config",
    "predict_channels",
    "reconstruct",
    "self_standardize",
]
