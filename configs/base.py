"""A channel-agnostic ViT-B/16 with the Fourier loss, for a small node of GPUs.

mae-jax train --config base --config.data.index=index.parquet --workdir runs/base

Channels and the scale of pixels are those of the index. A step takes 2,048 crops of 256 pixels, in
as many micro-batches as the devices' memory asks for; on one GPU that is slow, but the same run.
Lion's rate is that of section A.2.3. `mae-jax plan --config base --on h100-8` estimates the time
beforehand.
"""

from ml_collections import ConfigDict

from mae_jax.config import as_config_dict
from mae_jax.networks.channels import ALL_CHANNELS
from mae_jax.networks.mae import mae_config
from mae_jax.train.config import (
    CheckpointConfig,
    DataConfig,
    DivergenceConfig,
    LogConfig,
    OptimizerConfig,
    TrainConfig,
)


def get_config() -> ConfigDict:
    model = mae_config("vit_b16", channels=ALL_CHANNELS, dtype="bfloat16", scan=True)
    return as_config_dict(
        TrainConfig(
            model=model,
            data=DataConfig(batch=2048),
            optimizer=OptimizerConfig("lion", lr=1e-4, weight_decay=0.05, grad_accum_steps=0),
            checkpoint=CheckpointConfig(every=1000),
            divergence=DivergenceConfig(snapshot_every=1000),
            log=LogConfig(validation=1000, image_every=2000),
            steps=50_000,
        )
    )
