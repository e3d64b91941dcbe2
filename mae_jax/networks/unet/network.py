"""The entry of MU-Nets in the registry of networks."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.networks.flops import traced_flops
from mae_jax.networks.registry import Network
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.unet.encoder import UNetEncoder
from mae_jax.networks.unet.model import UNet
from mae_jax.networks.unet.task import UNetTask
from mae_jax.networks.unet.torch_keys import TORCH_FORMAT


def init_unet(config: UNetConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of a MU-Net."""
    images = _example_images(config, math.lcm(config.stride, config.patch))
    return UNet(config).init({"params": key, "mask": key}, images)["params"]


def forward_flops(config: UNetConfig, crop: int) -> float:
    """FLOPs of one crop of the config's size, counted in the trace."""
    model, key = UNet(config), jax.random.key(0)
    params = jax.eval_shape(lambda key: init_unet(config, key), key)
    return traced_flops(
        lambda params, images: model.apply({"params": params}, images, rngs={"mask": key}),
        params,
        _example_images(config, config.crop),
    )


def _example_images(config: UNetConfig, side: int) -> jax.Array:
    return jnp.zeros((1, len(config.channels), side, side))


UNET_NETWORK = Network(
    "unet",
    config=UNetConfig,
    init=init_unet,
    task=UNetTask,
    encoder=UNetEncoder,
    # Convolutions (height, width, in, out) are stored sharded over fsdp, but not computed sharded
    # over tensor: networks of this size fit every device.
    sharding_rules=((r"/(conv\d+|upsample\d+|head)/kernel$", ("", "fsdp")),),
    forward_flops=forward_flops,
    torch=TORCH_FORMAT,
    old_names=("mu-net",),
)
