"""A network that the package does not know: a linear autoencoder of averaged pixels."""

import dataclasses

import jax
import jax.numpy as jnp

from mae_jax import networks
from mae_jax.config import schema, setting
from mae_jax.networks.encoder import NetworkEncoder
from mae_jax.networks.task import Task


@schema
class ToyConfig:
    """A linear autoencoder.

    Attributes:
      width: of the code.
      crop: side of a crop, in pixels.
      channels: names of the channels.
    """

    width: int = setting(8, ge=1)
    crop: int = setting(16, ge=4)
    channels: tuple[str, ...] = ("DNA", "ER")


def init(config, key):
    """Encoder and decoder matrices over 4 x 4 averages of every channel."""
    inputs = 16 * len(config.channels)
    down, up = jax.random.split(key)
    return {
        "down": {"kernel": 0.1 * jax.random.normal(down, (inputs, config.width))},
        "up": {"kernel": 0.1 * jax.random.normal(up, (config.width, inputs))},
    }


def averages(images):
    """(batch, channels, height, width) to (batch, channels * 16)."""
    batch, channels, height, width = images.shape
    tiles = images.reshape(batch, channels, 4, height // 4, 4, width // 4)
    return tiles.mean((3, 5)).reshape(batch, -1)


class ToyTask(Task):
    """Squared error of the averages."""

    def loss(self, params, model_state, batch, key, *, train, channels=None):
        x = averages(self.standardize(batch["pixels"]))
        error = jnp.square(x @ params["down"]["kernel"] @ params["up"]["kernel"] - x).mean()
        return error, ({"error": error}, model_state)


class ToyEncoder(NetworkEncoder):
    """The code."""

    poolings = ("mean",)

    def forward(self, params, pixels, *, pooling="mean", block=None):
        return averages(self.preprocessing.standardize(pixels)) @ params["down"]["kernel"]

    def width(self, channels, pooling="mean"):
        return self.config.width


networks.register(
    networks.Network(
        "toy",
        config=ToyConfig,
        init=init,
        task=ToyTask,
        encoder=ToyEncoder,
        sharding_rules=((r"/down/kernel$", ("fsdp", "tensor")),),
    )
)


def get_config():
    """As a config file: `mae-jax train --config toy_network.py`."""
    from mae_jax.config import as_config_dict
    from mae_jax.train.config import CheckpointConfig, LogConfig, TrainConfig

    config = TrainConfig(network="toy", model=ToyConfig(), steps=4)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch=8, validation_crops=8),
        checkpoint=CheckpointConfig(every=2, keep=1),
        log=LogConfig(scalars=2, validation=4, image_every=4),
    )
    return as_config_dict(config)
