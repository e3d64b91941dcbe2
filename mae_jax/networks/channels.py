"""The default channels of configs, and the check of an image's number of channels."""

from collections.abc import Sequence

import jax

from mae_jax.errors import InputError

# The five stains of Cell Painting under JUMP's names: a default that every config may replace.
CELL_PAINTING = ("DNA", "ER", "RNA", "AGP", "Mito")
# The input of a network that takes any one channel at a time (`networks.bag_of_channels`).
ANY_CHANNEL = ("any",)

# Channels of a training config that stand for all channels of its index.
ALL_CHANNELS = ("*",)


def check_num_channels(images: jax.Array, channels: Sequence[str]) -> None:
    """Compare the number of channels of images (batch, channels, …) with that of a network.

    Raises:
      InputError: they differ.
    """
    if images.shape[1] != len(channels):
        raise InputError(
            f"this network takes {len(channels)} channels ({', '.join(channels)}), "
            f"not {images.shape[1]}."
        )
