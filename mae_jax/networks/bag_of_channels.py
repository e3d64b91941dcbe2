"""Bag of channels: an encoder that sees each channel of an image alone."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PyTree

from mae_jax.networks.encoder import Encoder
from mae_jax.weights.preprocessing import Preprocessing

# What the wrapped network gets is prepared already.
PREPARED: dict[str, Any] = {"standardization": "fixed", "scale": 1.0}


class BagOfChannels(Encoder):
    """Any encoder, given one channel at a time: any number of channels, in any order.

    A channel is repeated for each input of the network, such as red, green and blue. Pooling
    "channel" concatenates the channels' vectors, each by the encoder's first pooling (of vision
    transformers the class token), in the order of the channels; the encoder's own poolings average
    over the channels.

    Attributes:
      inner: the encoder of one channel.
    """

    def __init__(self, inner: Encoder, inputs: int, preprocessing: Preprocessing) -> None:
        """Wrap `inner`, whose preprocessing does nothing.

        Args:
          inputs: the number of channels that `inner` takes.
        """
        self.inner, self.inputs = inner, inputs
        self.name = f"{inner.name}, bag of channels"
        self.params = inner.params
        self.preprocessing = preprocessing
        self.poolings = ("channel", *inner.poolings)
        self.config = getattr(inner, "config", None)

    def forward(
        self,
        params: PyTree,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "channel",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """See `Encoder.forward`."""
        self.check_pooling(pooling)
        x = self.preprocessing.per_image(pixels)
        batch, channels, height, width = x.shape
        x = jnp.repeat(x.reshape(batch * channels, 1, height, width), self.inputs, axis=1)
        x = self.preprocessing.resized(self.preprocessing.with_statistics(x))
        own = self.inner.poolings[0] if pooling == "channel" else pooling
        vectors = self.inner.forward(params, x, pooling=own, block=block)
        vectors = vectors.reshape(batch, channels, -1)
        return vectors.reshape(batch, -1) if pooling == "channel" else vectors.mean(axis=1)

    def width(self, channels: int, pooling: str = "channel") -> int:
        """The length of the vector of one channel, times the channels for "channel"."""
        self.check_pooling(pooling)
        if pooling == "channel":
            return channels * self.inner.width(self.inputs, self.inner.poolings[0])
        return self.inner.width(self.inputs, pooling)

    def microbatch_size(self, channels: int, height: int, width: int) -> int:
        """That of the encoder of one channel, divided by the channels."""
        return max(1, self.inner.microbatch_size(self.inputs, height, width) // channels)

    def architecture(self) -> str:
        """The encoder's own: that channels come one by one is said by the preprocessing."""
        return self.inner.architecture()
