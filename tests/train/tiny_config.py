"""A run that takes seconds: `mae-jax train --config tests/train/tiny_config.py`."""

from ml_collections import ConfigDict

from mae_jax.config import as_config_dict
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.train.config import TrainConfig


def get_config() -> ConfigDict:
    model = MAEConfig(
        ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
        DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    )
    config = as_config_dict(TrainConfig(model=model))
    config.steps = 60
    config.data.batch = 4
    config.data.validation_crops = 4
    config.checkpoint.every = 3
    config.checkpoint.keep = 2
    config.checkpoint.keep_every = 12
    config.divergence.snapshot_every = 30
    config.log.scalars = 2
    config.log.validation = 6
    config.log.image_every = 60
    return config
