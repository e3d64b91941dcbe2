"""Networks: pure functions of parameters and images; nothing here knows of training or files."""

from mae_jax.networks.mae.config import (
    DecoderConfig,
    MAEConfig,
    ParallelViTConfig,
    mae_config,
    parallel_vit_config,
)
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
    "parallel_vit_config",
    "predict_channels",
    "reconstruct",
    "self_standardize",
]
