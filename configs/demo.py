"""The demo's network: a channel-agnostic MAE with the Fourier loss, small enough for two cores.

mae-jax train --config configs/demo.py --config.data.index=index.parquet --workdir runs/mine
"""

from ml_collections import ConfigDict

from mae_jax.config import as_config_dict
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.train.config import TrainConfig


def get_config() -> ConfigDict:
    encoder = ParallelViTConfig(
        patch=8,
        width=64,
        depth=4,
        heads=2,
        crop=32,
        channels=("DNA", "RNA", "ER", "AGP", "Mito"),
        drop_path=0.0,
    )
    decoder = DecoderConfig(width=48, depth=1, heads=2, cross_heads=2, norm_eps=1e-5)
    config = as_config_dict(TrainConfig(model=MAEConfig(encoder=encoder, decoder=decoder)))
    config.steps = 3000
    config.save_initial_model = True
    config.data.batch = 48
    config.data.validation_crops = 128
    # Lion's rate falls with the width and with the size of the batch: ViT-S to L use 3e-5 to 1e-4.
    config.optimizer.lr = 1e-3
    config.checkpoint.every = 300
    config.divergence.snapshot_every = 300
    config.log.scalars = 20
    config.log.validation = 100
    config.log.image_every = 500
    return config
