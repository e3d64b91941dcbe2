"""MU-Nets: masked autoencoders with a U-Net in place of the transformer (Section 4.2)."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mae_jax.errors import InputError
from mae_jax.networks.channels import check_num_channels
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.nn.masking import num_keep, random_masking
from mae_jax.nn.patches import patch_grid

_kernel_init = nn.initializers.he_normal()


class UNetOutput(NamedTuple):
    """Prediction and target images, and the mask by pixels (1 where blanked)."""

    prediction: Float[Array, "batch channels height width"]
    target: Float[Array, "batch channels height width"]
    mask: Float[Array, "batch 1 height width"]


class UNet(nn.Module):
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
        """The spatial mean of the deepest level: `widths[-1]` features."""
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
        check_num_channels(images, config.channels)
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
