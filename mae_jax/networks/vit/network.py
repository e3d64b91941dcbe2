"""The entry of ordinary vision transformers in the registry of networks."""

from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.config_keys import with_key
from mae_jax.networks.channels import ANY_CHANNEL
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.registry import Network
from mae_jax.networks.sharding_rules import TRANSFORMER
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.networks.vit.encoder import ViTEncoder
from mae_jax.networks.vit.model import ViT
from mae_jax.networks.vit.task import ViTTask
from mae_jax.networks.vit.torch_keys import TORCH_FORMAT
from mae_jax.weights.preprocessing import Preprocessing


def init_vit(config: ViTConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of a vision transformer."""
    model = ViT(with_key(config, "attention", "xla"))  # no parameter depends on the kernel
    return model.init(key, _example_images(config))["params"]


def forward_flops(config: ViTConfig, crop: int) -> float:
    """FLOPs of one crop of the size of the position table, counted in the trace."""
    model = ViT(with_key(config, "attention", "xla"))
    method = ViT.logits if config.classes else ViT.__call__
    variables = jax.eval_shape(model.init, jax.random.key(0), _example_images(config))
    return traced_flops(
        lambda variables, images: model.apply(variables, images, method=method),
        variables,
        _example_images(config),
    )


def _example_images(config: ViTConfig) -> jax.Array:
    side = config.patch * config.grid
    return jnp.zeros((1, len(config.channels), side, side))


def preprocessing(config: ViTConfig) -> Preprocessing:
    """That of weights which do not record theirs: crops of 256 pixels, or of 224 if patches do not
    fit into those; one channel at a time where the network takes one.
    """
    crop = 224 if 256 % config.patch else 256
    if config.channels == ANY_CHANNEL:
        side = config.patch * config.grid
        return Preprocessing((), any_channels=True, crop=side, bag_of_channels=True)
    return Preprocessing(config.channels, crop=crop)


VIT_NETWORK = Network(
    "vit",
    config=ViTConfig,
    init=init_vit,
    task=ViTTask,
    encoder=ViTEncoder,
    preprocessing=preprocessing,
    sharding_rules=TRANSFORMER,
    forward_flops=forward_flops,
    torch=TORCH_FORMAT,
)
