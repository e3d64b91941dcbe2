"""The entry of DenseNets in the registry of networks."""

from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.densenet.encoder import DenseNetEncoder
from mae_jax.networks.densenet.model import DenseNet
from mae_jax.networks.densenet.task import DenseNetTask
from mae_jax.networks.densenet.torch_keys import TORCH_FORMAT
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.registry import Network
from mae_jax.networks.sharding_rules import COLUMN_PARALLEL, ROW_PARALLEL


def init_densenet(config: DenseNetConfig, key: jax.Array) -> dict[str, Any]:
    """Fresh {"params": …, "batch_stats": …} of a DenseNet."""
    return dict(DenseNet(config).init(key, _example_images(config, 64)))


def forward_flops(config: DenseNetConfig, crop: int) -> float:
    """FLOPs of one crop, counted in the trace."""
    model = DenseNet(config)
    variables = jax.eval_shape(lambda key: init_densenet(config, key), jax.random.key(0))
    return traced_flops(
        lambda variables, images: model.apply(
            variables, images, output="logits" if config.classes else "embedding"
        ),
        variables,
        _example_images(config, crop),
    )


def _example_images(config: DenseNetConfig, side: int) -> jax.Array:
    return jnp.zeros((1, len(config.channels), side, side))


DENSENET_NETWORK = Network(
    "densenet",
    config=DenseNetConfig,
    init=init_densenet,
    task=DenseNetTask,
    encoder=DenseNetEncoder,
    # Convolutions (height, width, in, out) are stored sharded, but not computed sharded: over
    # tensor, their gradients were wrong on meshes of three axes. Networks of their size fit every
    # device.
    sharding_rules=(
        (r"/(\w*conv\d?)/kernel$", ("", "fsdp")),
        (r"/(classifier|neck1)/kernel$", COLUMN_PARALLEL),
        (r"/neck2/kernel$", ROW_PARALLEL),
    ),
    forward_flops=forward_flops,
    torch=TORCH_FORMAT,
)
