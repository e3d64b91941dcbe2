"""The preprocessing of raw pixels that a network expects: saved with its weights."""

import dataclasses
import json
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from mae_jax.errors import InputError
from mae_jax.nn.standardize import (
    DEFAULT_EPS,
    divided_by_max,
    min_max,
    scaled,
    self_standardize,
    z_score,
)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images were prepared in training.

    Attributes:
      channels: names of the channels of training, in order.
      any_channels: True if other channels, fewer or in another order are accepted.
      crop: side of the training crops, in pixels.
      scale: divisor of raw pixels before self-standardization; None means the maximum of an
        integer type of up to 16 bits (255, 65535), and 1 for floats.
      eps: added to the variance of the scaled pixels ("self"), to the deviation ("zscore") or to
        the range ("minmax").
      standardization: of the scaled pixels. "self": (x - mean) / sqrt(var + eps) of each crop and
        channel. "zscore": (x - mean) / (std + eps) of each. "minmax": (x - min) / (max - min + eps)
        over all channels of a crop together. "max": x / max over these. "fixed": none.
      mean, std: then (x - mean) / std, one number per input of the network; empty for none.
      resize: then each crop is resized to this side (bilinear with antialiasing); None for none.
      bag_of_channels: the network takes one channel at a time, repeated for each of its inputs
        (`networks.bag_of_channels`).
    """

    channels: tuple[str, ...]
    any_channels: bool = False
    crop: int = 256
    scale: float | None = None
    eps: float = DEFAULT_EPS
    standardization: Literal["self", "zscore", "minmax", "max", "fixed"] = "self"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: int | None = None
    bag_of_channels: bool = False

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise InputError(f"crop must be at least 1, not {self.crop}.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise InputError(f"scale must be a finite number above 0, not {self.scale}.")
        if not 0 < self.eps < math.inf:
            raise InputError(f"eps must be a finite number above 0, not {self.eps}.")
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise InputError(
                f"mean {self.mean} and std {self.std} must be as many numbers, the latter above 0."
            )
        if self.resize is not None and self.resize < 1:
            raise InputError(f"resize must be at least 1, not {self.resize}.")

    def standardize(
        self, pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"]
    ) -> Float[Array, "*batch rows columns"]:
        """Bring raw pixels to the values and the size that the network takes.

        Raises:
          InputError: `scale` is None and the pixels are integers of more than 16 bits.
        """
        return self.resized(self.with_statistics(self.per_image(pixels)))

    def per_image(
        self, pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"]
    ) -> Float[Array, "*batch height width"]:
        """The part of `standardize` that looks at the image: scale and `standardization`."""
        if self.standardization == "self":
            return self_standardize(pixels, self.scale, self.eps)
        x = scaled(pixels, self.scale)
        match self.standardization:
            case "zscore":
                return z_score(x, self.eps)
            case "minmax":
                return min_max(x, self.eps)
            case "max":
                return divided_by_max(x)
        return x

    def with_statistics(
        self, x: Float[Array, "*batch height width"]
    ) -> Float[Array, "*batch height width"]:
        """(x - mean) / std of the network's inputs."""
        if not self.mean:
            return x
        mean, std = (jnp.asarray(v, jnp.float32)[:, None, None] for v in (self.mean, self.std))
        return (x - mean) / std

    def resized(
        self, x: Float[Array, "*batch height width"]
    ) -> Float[Array, "*batch rows columns"]:
        """The crops at the side `resize`."""
        if self.resize is None or x.shape[-2:] == (self.resize, self.resize):
            return x
        return jax.image.resize(x, (*x.shape[:-2], self.resize, self.resize), "bilinear")

    def fingerprint_text(self) -> str:
        """Return the values as JSON for an encoder's fingerprint.

        Fields of later versions are left out at their defaults, so that fingerprints from before
        they were recorded stay valid.
        """
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER_FIELDS and values[field.name] == field.default:
                del values[field.name]
        return json.dumps(values, sort_keys=True)


_LATER_FIELDS = ("eps", "standardization", "mean", "std", "resize", "bag_of_channels")
