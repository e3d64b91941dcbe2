"""What must happen to raw pixels before a network sees them: kept with its weights."""

import dataclasses

from mae_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The record of how images were prepared in training.

    Attributes:
      channels: names of the channels seen in training, in order.
      any_channels: True where other channels, fewer or in another order may be given.
      crop: side of the training crops, in pixels.
      scale: divisor of raw pixels before self-standardisation; None means the maximum of their
        integer type (255, 65535), 1 for floats.
    """

    channels: tuple[str, ...]
    any_channels: bool = False
    crop: int = 256
    scale: float | None = None

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise InputError(f"crop must be at least 1, not {self.crop}.")
        if self.scale is not None and not self.scale > 0:
            raise InputError(f"scale must be above 0, not {self.scale}.")
