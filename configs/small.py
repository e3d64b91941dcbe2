"""A channel-agnostic ViT-S/16 with the Fourier loss, for a screen of one's own on one GPU.

mae-jax train --config small --config.data.index=index.parquet --workdir runs/small

Channels and the scale of pixels are those of the index (name channels to take fewer:
--config.model.encoder.channels=DNA,ER). A step takes 1,024 crops of 256 pixels, in as many
micro-batches as the devices' memory asks for. `mae-jax plan --config small --on h100-1` estimates
the time beforehand.

The name of an optimizer after a colon trains with it: small:muon, small:schedule-free-adamw. They,
and adamw, start from rates that are common for transformers of this size; tune them on your screen.
"""

from ml_collections import ConfigDict

from mae_jax.config import as_config_dict, nearest
from mae_jax.errors import InputError
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

OPTIMIZERS = {
    # Section A.2.3: Lion at 1e-4 for ViT-S and B.
    "lion": OptimizerConfig("lion", lr=1e-4, weight_decay=0.05, grad_accum_steps=0),
    "adamw": OptimizerConfig("adamw", lr=6e-4, weight_decay=0.05, grad_accum_steps=0),
    # One rate for its matrices and for AdamW's parameters: updates have the same RMS.
    "muon": OptimizerConfig("muon", lr=6e-4, b1=0.95, weight_decay=0.05, grad_accum_steps=0),
    "schedule-free-adamw": OptimizerConfig(
        "schedule-free-adamw",
        schedule="constant",
        lr=1e-3,
        weight_decay=0.05,
        warmup=0.05,
        grad_accum_steps=0,
    ),
}


def get_config(optimizer: str = "lion") -> ConfigDict:
    if optimizer not in OPTIMIZERS:
        raise InputError(
            f"no optimizer is called '{optimizer}': {nearest(optimizer, [*OPTIMIZERS])}"
        )
    model = mae_config("vit_s16", channels=ALL_CHANNELS, dtype="bfloat16")
    return as_config_dict(
        TrainConfig(
            model=model,
            data=DataConfig(batch=1024),
            optimizer=OPTIMIZERS[optimizer],
            checkpoint=CheckpointConfig(every=500),
            divergence=DivergenceConfig(snapshot_every=500),
            log=LogConfig(validation=500, image_every=2000),
            steps=20_000,
        )
    )
