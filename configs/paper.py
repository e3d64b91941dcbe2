"""Every network that the paper trained: the rows of Tables 3 and 6, by name.

mae-jax train --config paper:mae/vit_l8+/rpi_93m --config.data.index=index.parquet \\
    --workdir runs/mae_l8

The name is family/network/training set; `ROWS` lists them all. Steps follow from the set's number
of images (Table 1), its epochs and the batch (A.2): one epoch takes one crop of every image. For
another screen change `steps`, the channels and, of classifiers, `model.classes`.

A batch of 16,384 is 64 crops on each of 256 devices. On fewer devices raise
`optimizer.grad_accum_steps`: 8 devices with 32 micro-batches take the same steps. Where a network
does not fit one device, shard it: `--config.mesh.fsdp=8`. `mae-jax plan` estimates both beforehand.

Classifiers start from ImageNet weights on the hub; `--config.init_from=FILE` names a file instead.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from mae_jax.config import as_config_dict, nearest
from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.mae import mae_config
from mae_jax.networks.unet.config import unet_config
from mae_jax.networks.vit.config import vit_config
from mae_jax.train.config import (
    CheckpointConfig,
    DataConfig,
    DivergenceConfig,
    EarlyStoppingConfig,
    LogConfig,
    OptimizerConfig,
    TrainConfig,
)

# The stains of the paper's six-channel Cell Painting.
CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito", "Actin")

# Table 1 and A.2: images, perturbations, epochs, batch of the masked autoencoders.
SETS = {
    "rxrx1": (125_510, 1_108, 100, 4096),
    "rxrx1_2m": (1_650_319, 1_108, 100, 4096),
    "rxrx3": (2_222_096, 113_517, 50, 4096),
    "rpi_52m": (51_516_177, 2_345_638, 50, 16_384),
    "rpi_93m": (92_764_542, 3_957_400, 50, 16_384),
}

ROWS = (
    # Weakly supervised models
    "wsl/densenet161/rxrx1",
    "wsl/densenet161/rxrx3",
    "wsl/densenet161_adabn/rxrx1",
    "wsl/densenet161_adabn/rxrx3",
    "wsl/densenet161_adabn_1024/rxrx1",
    "wsl/densenet161_adabn_1024/rxrx3",
    "wsl/vit_b16/rxrx1",
    "wsl/vit_l16/rxrx3",
    "wsl/vit_l16/rxrx1_2m",
    # MU-Nets
    "mu_net/m/rxrx3",
    "mu_net/l/rxrx3",
    "mu_net/l/rpi_52m",
    "mu_net/l/rpi_93m",
    # MAE ViTs; "+" is with the Fourier loss
    "mae/vit_s16/rxrx3",
    "mae/vit_s16/rpi_52m",
    "mae/vit_b16/rxrx3",
    "mae/vit_b16/rpi_52m",
    "mae/vit_b8/rpi_52m",
    "mae/vit_l16/rxrx3",
    "mae/vit_l16/rpi_52m",
    "mae/vit_l16+/rpi_52m",
    "mae/vit_l8+/rpi_52m",
    "mae/vit_l8+/rpi_93m",
    # Channel-agnostic MAE ViTs
    "ca_mae/vit_b16/rpi_52m",
    "ca_mae/vit_b16+/rpi_52m",
    "ca_mae/vit_l16+/rpi_93m",
)

# Rows that Tables 3 and 6 also show after some epochs. Their runs keep a checkpoint per epoch:
# epoch n of `steps_per_epoch` steps is `runs/mae_l8@STEP` with STEP = n · steps_per_epoch.
EPOCHS_SHOWN = {"mae/vit_l8+/rpi_52m": (1, 25, 46)}


def get_config(name: str = "mae/vit_l8+/rpi_93m") -> ConfigDict:
    return as_config_dict(row(name))


def row(name: str) -> TrainConfig:
    """The config of a row of `ROWS`."""
    if name not in ROWS:
        raise InputError(f"the paper has no row '{name}': {nearest(name, ROWS)}")
    family, network, screen = name.split("/")
    images, perturbations, epochs, batch = SETS[screen]
    make = {"wsl": wsl, "mu_net": mu_net, "mae": mae, "ca_mae": ca_mae}[family]
    config = make(network, batch, perturbations)
    epoch = steps_per_epoch(screen, config.data.batch)
    early = 5 if screen.startswith("rpi") else 0
    return dataclasses.replace(
        config,
        steps=math.ceil(epochs * images / config.data.batch),
        checkpoint=CheckpointConfig(
            every=max(250, epoch // 4), keep_every=epoch if name in EPOCHS_SHOWN else 0
        ),
        # One look at the validation set an epoch; the RPI sets stop early, on a plateau (A.2).
        early_stopping=EarlyStoppingConfig(patience=early, every=epoch),
        divergence=DivergenceConfig(snapshot_every=max(250, epoch // 4)),
        log=LogConfig(validation=epoch, image_every=epoch),
    )


def steps_per_epoch(screen: str, batch: int) -> int:
    """Steps in which a run takes about one crop of every image of a training set."""
    return round(SETS[screen][0] / batch)


def mae(network: str, batch: int, _: int, *, channel_agnostic: bool = False) -> TrainConfig:
    """Lion at 1e-4 (S, B) or 3e-5 (L), A.2.3; stochastic depth comes with the network's size."""
    large = network.startswith("vit_l")
    model = mae_config(
        network.removesuffix("+"),
        channel_agnostic=channel_agnostic,
        channels=CHANNELS,
        dtype="bfloat16",
        # Large encoders compile one block, and compute again what is cheap to compute.
        scan=large,
        remat="dots" if large else "none",
    )
    fourier = 0.01 if network.endswith("+") else 0.0
    return TrainConfig(
        data=DataConfig(batch=batch),
        model=dataclasses.replace(model, fourier_weight=fourier),
        optimizer=OptimizerConfig("lion", lr=3e-5 if large else 1e-4, weight_decay=0.05),
    )


def ca_mae(network: str, batch: int, perturbations: int) -> TrainConfig:
    return mae(network, batch, perturbations, channel_agnostic=True)


def mu_net(size: str, batch: int, _: int) -> TrainConfig:
    """AdamW at 1e-3 (A.2.2)."""
    return TrainConfig(
        data=DataConfig(batch=batch),
        network="unet",
        model=unet_config(f"mu_net_{size}", channels=CHANNELS, dtype="bfloat16"),
        optimizer=OptimizerConfig("adamw", lr=1e-3, weight_decay=0.05),
    )


def wsl(network: str, _: int, perturbations: int) -> TrainConfig:
    """SGD at 0.32768 (DenseNets) or AdamW at 1e-3 (ViTs), batches of 4,096 (A.2.1)."""
    if network.startswith("vit"):
        size = network.removeprefix("vit_")
        name = {"b16": "base", "l16": "large"}[size]
        return TrainConfig(
            network="vit",
            model=vit_config(
                network,
                channels=CHANNELS,
                classes=perturbations,
                dtype="bfloat16",
                scan=size == "l16",
                remat="dots" if size == "l16" else "none",
            ),
            data=DataConfig(batch=4096, sampling="label"),
            optimizer=OptimizerConfig("adamw", lr=1e-3, weight_decay=0.05),
            init_from=f"timm/vit_{name}_patch16_224.augreg_in21k",
        )
    adapted = "adabn" in network
    return TrainConfig(
        network="densenet",
        model=DenseNetConfig(
            embedding_dims=(1024, 1024) if network.endswith("1024") else (512, 128),
            channels=CHANNELS,
            classes=perturbations,
            norm="adabn" if adapted else "ghost",
            ghost_batch_size=16,
            dtype="bfloat16",
        ),
        data=DataConfig(batch=4096, sampling="plate" if adapted else "label"),
        optimizer=OptimizerConfig("sgd", lr=0.32768, b1=0.9, weight_decay=1e-5, no_decay=()),
        init_from="timm/densenet161.tv_in1k",
    )
