"""A network of one's own by the registry: a small convolutional autoencoder.

    mae-jax train --config examples/new_network.py --config.data.index=index.parquet --workdir run
    mae-jax embed --import examples/new_network.py --encoder run/model --index index.parquet \\
        --out embeddings

Once registered, the trainer, checkpoints, sharding, saved models and `mae-jax embed` work with it
as with the networks of the package.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mae_jax import networks
from mae_jax.config import as_config_dict, schema, setting
from mae_jax.networks.encoder import NetworkEncoder
from mae_jax.networks.task import Task


@schema
class ConvAutoencoderConfig:
    """A convolutional autoencoder.

    Attributes:
      width: features of the code.
      crop: side of a crop, in pixels.
      channels: names of the channels.
    """

    width: int = setting(16, ge=1)
    crop: int = setting(16, ge=8)
    channels: tuple[str, ...] = ("DNA", "ER")


class ConvAutoencoder(nn.Module):
    """Pixels to a code at a quarter of the resolution, and back."""

    config: ConvAutoencoderConfig

    def setup(self) -> None:
        width, channels = self.config.width, len(self.config.channels)
        self.encoder = nn.Conv(width, (4, 4), strides=4)
        self.decoder = nn.ConvTranspose(channels, (4, 4), strides=(4, 4))

    def encode(self, images):  # (batch, channel, height, width)
        return nn.gelu(self.encoder(jnp.moveaxis(images, 1, -1)))

    def __call__(self, images):
        return jnp.moveaxis(self.decoder(self.encode(images)), -1, 1)


def init(config, key):
    images = jnp.zeros((1, len(config.channels), config.crop, config.crop))
    return ConvAutoencoder(config).init(key, images)["params"]


class ConvAutoencoderTask(Task):
    """What training minimizes: the squared error of self-standardized pixels."""

    def loss(self, params, model_state, batch, key, *, train, channels=None):
        images = self.standardize(batch["pixels"])
        drawn = ConvAutoencoder(self.model).apply({"params": params}, images)
        error = jnp.square(drawn - images).mean()
        return error, ({"error": error}, model_state)


class ConvAutoencoderEncoder(NetworkEncoder):
    """What `embed` computes: the mean of the code over the crop."""

    poolings = ("mean",)

    def forward(self, params, pixels, *, pooling="mean", block=None):
        images = self.preprocessing.standardize(pixels)
        model = ConvAutoencoder(self.config)
        code = model.apply({"params": params}, images, method=ConvAutoencoder.encode)
        return code.mean(axis=(1, 2))

    def width(self, channels, pooling="mean"):
        return self.config.width


networks.register(
    networks.Network(
        "conv_autoencoder",
        config=ConvAutoencoderConfig,
        init=init,
        task=ConvAutoencoderTask,
        encoder=ConvAutoencoderEncoder,
        sharding_rules=(),  # small: whole on every device
    )
)


def get_config() -> ConfigDict:
    from mae_jax.train import TrainConfig

    config = TrainConfig(network="conv_autoencoder", model=ConvAutoencoderConfig(), steps=200)
    data = dataclasses.replace(config.data, batch=8, validation_crops=8)
    return as_config_dict(dataclasses.replace(config, data=data))


if __name__ == "__main__":
    shapes = jax.eval_shape(lambda: init(ConvAutoencoderConfig(), jax.random.key(0)))
    print(jax.tree.map(lambda leaf: leaf.shape, shapes))
