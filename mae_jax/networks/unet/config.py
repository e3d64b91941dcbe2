"""Configs of MU-Nets, and those of published sizes."""

from typing import Any

from mae_jax.config import distinct, schema, setting
from mae_jax.errors import InputError
from mae_jax.networks.channels import CELL_PAINTING
from mae_jax.networks.compute_options import Dtype


@schema
class UNetConfig:
    """A masked U-Net.

    The paper gives widths, kernels (3 or 5) and sizes (52 and 135 million) but not the number of
    convolutions; `unet_config` sets `convolutions` so that the sizes come out.

    Attributes:
      widths: channels of each level; every level after the first halves the image.
      kernel: side of the convolutions.
      convolutions: how many each level of the encoder has, and likewise the decoder's.
      patch: side of a masked square, in pixels.
      mask_ratio: share of the squares that are blanked (to 0, the channel's mean), in all
        channels together.
    """

    widths: tuple[int, ...] = setting((32, 64, 128, 256, 512), ge=1)
    kernel: int = setting(3, ge=1)
    convolutions: tuple[int, ...] = setting((2, 2, 2, 2, 2), ge=1)
    channels: tuple[str, ...] = setting(CELL_PAINTING, check=distinct)
    crop: int = setting(256, ge=1)
    patch: int = setting(16, ge=1)
    mask_ratio: float = setting(0.25, ge=0, lt=1)
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise InputError(f"kernel must be odd, not {self.kernel}.")
        if len(self.convolutions) != len(self.widths) or len(self.widths) < 2:
            raise InputError("convolutions must name a number for each of two or more widths.")

    @staticmethod
    def upgrade_saved(values: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 had a key `fourier_weight` without effect."""
        return {key: value for key, value in values.items() if key != "fourier_weight"}

    @property
    def stride(self) -> int:
        """Required divisor of the image side."""
        return 2 ** (len(self.widths) - 1)


# Widths, and the convolutions of each level with which kernel 5 gives the paper's sizes.
_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mu_net_m": ((32, 64, 128, 256, 512), (1, 1, 1, 2, 7)),
    "mu_net_l": ((32, 64, 128, 256, 512, 1024), (2, 3, 3, 2, 2, 4)),
}


def unet_config(name: str, **changes: Any) -> UNetConfig:
    """MU-Net-M ("mu_net_m", 52 million parameters) or MU-Net-L ("mu_net_l", 135 million).

    The sizes hold for kernel 5 and six channels; kernel 3 is the same network with fewer.

    Raises:
      InputError: an unknown name.
    """
    if name not in _SIZES:
        raise InputError(f"no MU-Net is called '{name}': known: {', '.join(_SIZES)}.")
    widths, convolutions = _SIZES[name]
    values: dict[str, Any] = {"widths": widths, "convolutions": convolutions, "kernel": 5}
    return UNetConfig(**(values | changes))
