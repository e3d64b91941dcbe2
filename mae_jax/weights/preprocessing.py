"""The preprocessing of raw pixels that a network expects: saved with its weights."""

import dataclasses
import json
import math

import numpy as np
from jaxtyping import Array, Float, Num

from mae_jax.errors import InputError
from mae_jax.nn.standardize import DEFAULT_EPS, self_standardize


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images were prepared in training.

    Attributes:
      channels: names of the channels of training, in order.
      any_channels: True if other channels, fewer or in another order are accepted.
      crop: side of the training crops, in pixels.
      scale: divisor of raw pixels before self-standardization; None means the maximum of an
        integer type of up to 16 bits (255, 65535), and 1 for floats.
      eps: added to the variance of the scaled pixels.
    """

    channels: tuple[str, ...]
    any_channels: bool = False
    crop: int = 256
    scale: float | None = None
    eps: float = DEFAULT_EPS

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise InputError(f"crop must be at least 1, not {self.crop}.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise InputError(f"scale must be a finite number above 0, not {self.scale}.")
        if not 0 < self.eps < math.inf:
            raise InputError(f"eps must be a finite number above 0, not {self.eps}.")

    def standardize(
        self, pixels: Num[Array, "*batch height width"] | Num[np.ndarray, "*batch height width"]
    ) -> Float[Array, "*batch height width"]:
        """Self-standardize raw pixels with this scale and eps (`nn.standardize`).

        Raises:
          InputError: `scale` is None and the pixels are integers of more than 16 bits.
        """
        return self_standardize(pixels, self.scale, self.eps)

    def fingerprint_text(self) -> str:
        """Return the values as JSON for an encoder's fingerprint.

        The default eps is left out, so that fingerprints from before it was recorded stay valid.
        """
        values = dataclasses.asdict(self)
        if self.eps == DEFAULT_EPS:
            del values["eps"]
        return json.dumps(values, sort_keys=True)
