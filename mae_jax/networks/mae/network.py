"""The entries of the masked autoencoders and of their encoder alone in the registry of networks."""

from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.config_keys import with_key
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.mae.flops import embedding_flops, mae_forward_flops
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.mae.task import MAETask
from mae_jax.networks.mae.torch_keys import TORCH_FORMATS
from mae_jax.networks.registry import Network
from mae_jax.networks.sharding_rules import TRANSFORMER
from mae_jax.weights.preprocessing import Preprocessing


def init_mae(config: MAEConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of a masked autoencoder."""
    model = MAE(with_key(config, "attention", "xla"))  # no parameter depends on the kernel
    return model.init({"params": key, "mask": key}, _example_images(config.encoder))["params"]


def init_parallel_vit(config: ParallelViTConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of an encoder."""
    model = ParallelViT(with_key(config, "attention", "xla"))
    return model.init(key, _example_images(config))["params"]


def _example_images(config: ParallelViTConfig) -> jax.Array:
    """One black image, as small as the patch allows: enough to shape every parameter."""
    return jnp.zeros((1, len(config.channels), 2 * config.patch, 2 * config.patch))


def _preprocessing(config: ParallelViTConfig) -> Preprocessing:
    return Preprocessing(config.channels, any_channels=config.channel_agnostic, crop=config.crop)


MAE_NETWORK = Network(
    "mae",
    config=MAEConfig,
    init=init_mae,
    task=MAETask,
    encoder=MAEEncoder,
    preprocessing=lambda config: _preprocessing(config.encoder),
    sharding_rules=TRANSFORMER,
    forward_flops=lambda config, crop: mae_forward_flops(config),
    torch=TORCH_FORMATS[0],
)
PARALLEL_VIT_NETWORK = Network(
    "parallel_vit",
    config=ParallelViTConfig,
    init=init_parallel_vit,
    encoder=MAEEncoder,
    preprocessing=_preprocessing,
    sharding_rules=TRANSFORMER,
    forward_flops=lambda config, crop: embedding_flops(config),
    torch=TORCH_FORMATS[1],
    old_names=("encoder",),
)
