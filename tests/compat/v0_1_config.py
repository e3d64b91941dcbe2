"""The config of the run folder in v0.1.tar.gz, in the words of today."""

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
    config.steps = 6
    config.data.index = "screen/index.parquet"
    config.data.batch = 4
    config.data.validation_crops = 4
    config.checkpoint.every = 3
    config.checkpoint.keep = 2
    config.log.scalars = 2
    config.log.validation = 3
    config.log.image_every = 6
    return config
