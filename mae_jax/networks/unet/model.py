"""MU-Nets: masked autoencoders with a U-Net in place of the transformer (Section 4.2)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.config import distinct, schema, setting
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import CELL_PAINTING, Dtype
from mae_jax.nn.masking import num_keep, random_masking
from mae_jax.nn.patches import patch_grid

_kernel_init = nn.initializers.he_normal()


@schema
class UNetConfig:
    """A masked U-Net.

    The paper gives widths, kernels (3 or 5) and sizes (52 and 135 million) but not the number of
    convolutions; `mu_net_config` sets `convolutions` so that the sizes come out.

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
        """What the side of an image must be a multiple of."""
        return 2 ** (len(self.widths) - 1)


class UNetOutput(NamedTuple):
    """Prediction and target images, and the mask by pixels (1 where blanked)."""

    prediction: Float[Array, "batch channels height width"]
    target: Float[Array, "batch channels height width"]
    mask: Float[Array, "batch 1 height width"]


class MUNet(nn.Module):
    """A U-Net that fills in blanked squares; its embedding is the pooled deepest level."""

    config: UNetConfig

    def setup(self) -> None:
        config = self.config
        levels = len(config.widths)
        self.down = [self._level(i, f"down{i}") for i in range(levels)]
        self.up_sample = [
            nn.ConvTranspose(
                config.widths[i], (2, 2), (2, 2), dtype=config.dtype, name=f"upsample{i}"
            )
            for i in range(levels - 1)
        ]
        self.up = [self._level(i, f"up{i}") for i in range(levels - 1)]
        self.head = nn.Conv(len(config.channels), (1, 1), dtype=config.dtype)

    def _level(self, index: int, name: str) -> Any:
        config = self.config
        return _Level(
            config.widths[index], config.kernel, config.convolutions[index], config.dtype, name=name
        )

    def __call__(
        self,
        images: Float[Array, "batch channels height width"],
        *,
        noise: Float[Array, "batch patches"] | Float[np.ndarray, "batch patches"] | None = None,
        mask_ratio: float | None = None,
    ) -> UNetOutput:
        """Blanks squares by uniform noise (or the rng "mask") and predicts whole images.

        Raises:
          InputError: a wrong number of channels, or a size that does not divide.
        """
        batch, _, height, width = self._checked(images).shape
        rows, columns = patch_grid(height, width, self.config.patch)
        ratio = self.config.mask_ratio if mask_ratio is None else mask_ratio
        if noise is None:
            noise = jax.random.uniform(self.make_rng("mask"), (batch, rows * columns))
        masking = random_masking(jnp.asarray(noise), num_keep(rows * columns, ratio))
        mask = masking.mask.reshape(batch, 1, rows, columns)
        mask = mask.repeat(self.config.patch, axis=2).repeat(self.config.patch, axis=3)
        levels = self._encode(images * (1 - mask))
        x = levels[-1]
        for i in reversed(range(len(levels) - 1)):
            x = jnp.concatenate([self.up_sample[i](x), levels[i]], axis=-1)
            x = self.up[i](x)
        prediction = jnp.moveaxis(self.head(x), -1, 1).astype(jnp.float32)
        return UNetOutput(prediction, images, mask)

    def embed(
        self, images: Float[Array, "batch channels height width"]
    ) -> Float[Array, "batch features"]:
        """The mean over places of the deepest level: `widths[-1]` features."""
        return self._encode(self._checked(images))[-1].astype(jnp.float32).mean((1, 2))

    def _encode(self, images: jax.Array) -> list[jax.Array]:
        x = jnp.moveaxis(images, 1, -1)
        levels: list[jax.Array] = []
        for level in self.down:
            if levels:
                x = nn.max_pool(x, (2, 2), (2, 2))
            x = level(x)
            levels.append(x)
        return levels

    def _checked(self, images: jax.Array) -> jax.Array:
        config = self.config
        if images.shape[1] != len(config.channels):
            raise InputError(
                f"this network takes {len(config.channels)} channels "
                f"({', '.join(config.channels)}), not {images.shape[1]}."
            )
        if images.shape[2] % config.stride or images.shape[3] % config.stride:
            raise InputError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels must be multiples of "
                f"{config.stride} for {len(config.widths)} levels."
            )
        return images


class _Level(nn.Module):
    """Convolution, batch-independent norm and ReLU, several times."""

    features: int
    kernel: int
    count: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.count):
            x = nn.Conv(
                self.features,
                (self.kernel, self.kernel),
                padding=self.kernel // 2,
                dtype=self.dtype,
                kernel_init=_kernel_init,
                name=f"conv{i}",
            )(x)
            # One group over each channel would be instance norm; eight channels to a group, so
            # that single crops embed the same in any batch.
            x = nn.GroupNorm(None, group_size=8, dtype=self.dtype, name=f"norm{i}")(x)
            x = nn.relu(x)
        return x


def unet_loss(
    output: UNetOutput,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean squared error over blanked pixels of all channels; 0 where none is blanked."""
    error = jnp.square(output.prediction - output.target).astype(jnp.float32).mean(1, keepdims=True)
    loss = (error * output.mask).sum() / jnp.maximum(output.mask.sum(), 1.0)
    return loss, {"mae": loss}


# Widths, and the convolutions of each level with which kernel 5 gives the paper's sizes.
_MU_NETS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "mu_net_m": ((32, 64, 128, 256, 512), (1, 1, 1, 2, 7)),
    "mu_net_l": ((32, 64, 128, 256, 512, 1024), (2, 3, 3, 2, 2, 4)),
}


def mu_net_config(name: str, **changes: Any) -> UNetConfig:
    """MU-Net-M ("mu_net_m", 52 million parameters) or MU-Net-L ("mu_net_l", 135 million).

    The sizes hold for kernel 5 and six channels; kernel 3 is the same network with fewer.

    Raises:
      InputError: an unknown name.
    """
    if name not in _MU_NETS:
        raise InputError(f"no MU-Net is called '{name}': known: {', '.join(_MU_NETS)}.")
    widths, convolutions = _MU_NETS[name]
    values: dict[str, Any] = {"widths": widths, "convolutions": convolutions, "kernel": 5}
    return UNetConfig(**(values | changes))
