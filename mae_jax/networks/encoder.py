"""The interface of everything that turns crops into vectors."""

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.kernels.cpu_pool import MicrobatchPool
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import fingerprint

POOLINGS = ("class", "mean", "channel")


class Encoder:
    """Raw crops to vectors: one interface for trained networks and for baselines.

    Subclasses give `forward` and `width`, and may narrow `poolings`.

    Attributes:
      name: of the architecture, for reports.
      preprocessing: channels, crop and scale of training.
      params: nested dicts of arrays; empty where nothing was learned.
      poolings: those that `forward` understands.
    """

    name: str
    preprocessing: Preprocessing
    params: dict[str, Any]
    poolings: tuple[str, ...] = POOLINGS

    def forward(
        self,
        params: Any,
        pixels: Num[Array, "batch channels height width"],
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """Embeds raw pixels; pure, so that jit, vmap, pmap and grad all apply.

        Args:
          params: `self.params`, or others of the same structure.
          pixels: raw crops, integer or float, channels in the order of `select_channels`.
          pooling: one of `self.poolings`.
          block: for networks of blocks, pool the tokens after this one (-1 the last).
        """
        raise NotImplementedError

    def width(self, channels: int, pooling: str = "mean") -> int:
        """Number of features for so many channels."""
        raise NotImplementedError

    def microbatch_size(self, channels: int, height: int, width: int) -> int:
        """How many such crops a processor takes at a time: their activations fit its cache."""
        return max(1, 4 * 256**2 // (height * width))

    def architecture(self) -> str:
        """What the network is, for the fingerprint; networks add their configuration."""
        return self.name

    @cached_property
    def fingerprint(self) -> str:
        """A hash of weights, preprocessing and architecture: equal exactly for equal encoders."""
        record = self.preprocessing.fingerprint_text()
        return fingerprint(self.params, record, self.architecture())

    def select_channels(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of the available channels to load, and in which order.

        Encoders of fixed channels take exactly those of training. The others take all available:
        first those of training in that order, then the rest as given.

        Raises:
          InputError: a channel that the encoder needs is not available.
        """
        wanted = self.preprocessing.channels
        available = tuple(names)
        if not available:
            raise InputError("there are no channels to embed.")
        if self.preprocessing.any_channels:
            known = [name for name in wanted if name in available]
            return (*known, *(name for name in available if name not in wanted))
        for name in wanted:
            if name not in available:
                raise InputError(
                    f"the encoder '{self.name}' needs the channel '{name}', which the images lack: "
                    f"{nearest(name, available)} Rename the channel in the index, or take a "
                    "channel-agnostic encoder."
                )
        return wanted

    def embed(
        self,
        pixels: Num[Array, "batch channels height width"] | Any,
        *,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """`forward` with the encoder's own parameters, compiled once per shape.

        On a processor, crops are taken few at a time in parallel (`mae_jax.kernels.cpu_pool`).

        Raises:
          InputError: a pooling that this encoder does not have, or pixels that are not a batch of
            crops of its channels; see `check_pixels`.
        """
        self.check_pooling(pooling)
        self.check_pixels(np.shape(pixels))
        if jax.default_backend() == "cpu" and not isinstance(pixels, jax.core.Tracer):
            kind = (pooling, block)
            if kind not in self._streams:
                self._streams[kind] = MicrobatchPool(
                    partial(self.forward, pooling=pooling, block=block)
                )
            size = self.microbatch_size(*np.shape(pixels)[1:])
            return jnp.asarray(np.asarray(self._streams[kind](self._device_params, pixels, size)))
        return self._compiled(self._device_params, pixels, pooling=pooling, block=block)

    def check_pooling(self, pooling: str) -> None:
        """Raises InputError where the encoder does not have `pooling`."""
        if pooling not in self.poolings:
            raise InputError(
                f"the encoder '{self.name}' has the poolings {', '.join(self.poolings)}, "
                f"not '{pooling}'."
            )

    def check_pixels(self, shape: Sequence[int]) -> None:
        """Raise InputError where `shape` is not (batch, channels, height, width) of its crops.

        Whole fields are refused where attention over their tokens would take forever: more than 4
        times the side of the crops in training.
        """
        if len(shape) != 4:
            hint = "; give a single crop as pixels[None]" if len(shape) == 3 else ""
            raise InputError(
                f"pixels must have the axes (batch, channels, height, width), not the shape "
                f"{tuple(shape)}{hint}."
            )
        _, channels, height, width = shape
        known = self.preprocessing.channels
        if not self.preprocessing.any_channels and channels != len(known):
            raise InputError(
                f"the encoder '{self.name}' takes the {len(known)} channels {', '.join(known)}, in "
                f"this order, not {channels} channels."
            )
        self.check_crop(max(height, width))

    def check_crop(self, side: int) -> None:
        """Raise InputError where crops of `side` pixels are too large for attention to end."""
        trained = self.preprocessing.crop
        if hasattr(self, "tokens") and side > 4 * trained:
            raise InputError(
                f"crops of {side} pixels per side are more than 4 times those of the encoder's "
                f"training ({trained}): tile them (`mae_jax.data.tile_offsets`; `mae-jax embed` "
                "without --crop does)."
            )

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.forward, static_argnames=("pooling", "block"))

    @cached_property
    def _streams(self) -> dict[Any, MicrobatchPool]:
        return {}

    @cached_property
    def _device_params(self) -> Any:
        return jax.device_put(self.params)
