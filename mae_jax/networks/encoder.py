"""The interface of everything that turns crops into vectors."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import ref

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, PyTree, Shaped

from mae_jax.config import to_dict
from mae_jax.errors import InputError
from mae_jax.html_table import html_table
from mae_jax.kernels.cpu_pool import MicrobatchPool
from mae_jax.networks.channel_names import ChannelMatch, match_channels
from mae_jax.nn.pooling import POOLINGS
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import fingerprint, flatten
from mae_jax.weights.recipe import Recipe

Function = TypeVar("Function")

_LATER_FIELDS = {
    "norm_eps": 1e-6,
    "fc_norm": False,
    "final_norm": True,
    "registers": 0,
    "layer_scale": None,
    "mlp": "gelu",
    "positions": "learned",
    "position_resize": "antialias",
    "pooler_heads": 0,
    "pooler_hidden": 512,
}


class CompiledFunctions:
    """The compiled functions of one encoder, by everything that they are specialized for.

    One cache per encoder for single calls, embedding jobs and reconstructions: a second job in the
    same process compiles nothing again, and the functions go with their encoder.
    """

    def __init__(self) -> None:
        self._functions: dict[Hashable, Any] = {}
        self._lock = Lock()

    def get(self, key: Hashable, build: Callable[[], Function]) -> Function:
        """The function of `key`, which `build` makes on first use."""
        with self._lock:
            if key not in self._functions:
                self._functions[key] = build()
            return cast(Function, self._functions[key])


class Encoder:
    """Raw crops to vectors: one interface for trained networks and for baselines.

    Subclasses implement `forward` and `width`, and may narrow `poolings`.

    Attributes:
      name: of the architecture, for reports.
      preprocessing: channels, crop and scale of training.
      params: nested dicts of arrays; empty if nothing was learned.
      poolings: the poolings that `forward` accepts.
      recipe: how whole screens are embedded with it, where it is used as published; None for
        crops that cover each site, the pooling "mean" and the mean over crops.
    """

    name: str
    preprocessing: Preprocessing
    params: dict[str, Any]
    poolings: tuple[str, ...] = POOLINGS
    recipe: Recipe | None = None

    def forward(
        self,
        params: PyTree,
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
        """Crops per microbatch on a CPU, such that their activations fit its cache."""
        return max(1, 4 * 256**2 // (height * width))

    def architecture(self) -> str:
        """The architecture as text, for the fingerprint; networks add their configuration."""
        return self.name

    @property
    def default_pooling(self) -> str:
        """The pooling of the recipe, else the mean over patches."""
        return "mean" if self.recipe is None else self.recipe.pooling

    @cached_property
    def fingerprint(self) -> str:
        """A hash of weights, preprocessing and architecture: equal exactly for equal encoders."""
        return fingerprint(self.params, self.preprocessing.fingerprint_text(), self.architecture())

    @cached_property
    def num_params(self) -> int:
        """The number of parameters of the encoder."""
        return sum(value.size for value in flatten(self.params).values())

    def __repr__(self) -> str:
        names = self.preprocessing.channels
        channels = f"channels=({', '.join(names)})"
        if self.preprocessing.any_channels:
            channels = f"any channels, trained on ({', '.join(names)})" if names else "any channels"
        width = self.width(max(1, len(names)), self.poolings[-1])
        return (
            f"{type(self).__name__}({self.name!r}, {channels}, crop={self.preprocessing.crop}, "
            f"width={width}, {self.num_params:,} parameters)"
        )

    def _repr_html_(self) -> str:
        names = ", ".join(self.preprocessing.channels)
        channels = f"any; trained on {names}" if self.preprocessing.any_channels else names
        rows: dict[str, object] = {
            "channels": channels or "any",
            "crop": f"{self.preprocessing.crop} pixels",
            "poolings": ", ".join(self.poolings),
            "features": self.width(max(1, len(self.preprocessing.channels)), self.default_pooling),
            "parameters": f"{self.num_params:,}",
        }
        if self.recipe is not None:
            rows["recipe"] = self.recipe.name
        return html_table(f"{type(self).__name__} {self.name}", rows)

    def match_channels(
        self, names: Sequence[str], assigned: Mapping[str, str] | None = None
    ) -> ChannelMatch:
        """Which of the channels `names` is which of training's, by name and synonym.

        Args:
          names: the available channels.
          assigned: training's name -> the available one, where someone has said so.
        """
        return match_channels(self.preprocessing.channels, names, assigned)

    def select_channels(
        self, names: Sequence[str], assigned: Mapping[str, str] | None = None
    ) -> tuple[str, ...]:
        """The available channels to load, in the order that the encoder takes them.

        Channels are recognized by name or by a synonym (`networks.channel_names`). Encoders of
        fixed channels take exactly those of training. The others take all available: first those
        of training in that order, then the rest in the given order.

        Args:
          names: the available channels.
          assigned: training's name -> the available one, where someone has said so.

        Raises:
          InputError: a channel that the encoder needs is not available, or may be one of several.
        """
        available = tuple(names)
        if not available:
            raise InputError("there are no channels to embed.")
        match = self.match_channels(available, assigned)
        chosen = tuple(match.found.values())
        if self.preprocessing.any_channels:
            return (*chosen, *(name for name in available if name not in chosen))
        if match.unclear:
            name = next(iter(match.unclear))
            raise InputError(
                f"the encoder '{self.name}' needs the channels "
                f"{', '.join(self.preprocessing.channels)}, and the images have "
                f"{', '.join(available)}: {match.complaint()}; say which channel is which "
                f"(--channels {name}=CHANNEL), or take a channel-agnostic encoder."
            )
        return chosen

    def embed(
        self,
        pixels: Num[Array, "batch channels height width"] | Any,
        *,
        channels: Sequence[str] | None = None,
        pooling: str = "mean",
        block: int | None = None,
    ) -> Float[Array, "batch features"]:
        """`forward` with the encoder's own parameters, compiled once per shape.

        On a CPU, crops are taken in microbatches in parallel (`mae_jax.kernels.cpu_pool`).

        Args:
          channels: names of the pixels' channels, in their order, to be compared with those of
            training; None compares their number alone.

        Raises:
          InputError: a pooling that this encoder does not have, pixels that are not (batch,
            channels, height, width), or a number, a name or an order of channels other than that
            of an encoder of fixed channels.
        """
        self.check_pooling(pooling)
        self.check_pixels(np.shape(pixels), channels)
        if jax.default_backend() == "cpu" and not isinstance(pixels, jax.core.Tracer):
            pool = self.microbatch_pool(pooling, block)
            size = self.microbatch_size(*np.shape(pixels)[1:])
            vectors, _ = pool(self._device_params, pixels, size)
            return jnp.asarray(np.asarray(vectors))
        forward = self.compiled.get(
            ("embed", pooling, block), lambda: jax.jit(self.pure_forward(pooling, block))
        )
        return forward(self._device_params, pixels)[0]

    def embed_image(
        self,
        image: Shaped[np.ndarray, "channels height width"],
        channels: Sequence[str],
        *,
        pooling: str | None = None,
        crop: int | None = None,
        batch_size: int = 16,
        progress: bool = True,
    ) -> Float[np.ndarray, " features"]:
        """The embedding of one raw image of any size: the mean over crops that cover it.

        It is what `mae-jax embed` makes of a well with this image alone. Where it takes long, the
        time is said once the second batch is through, and a bar shows the time left.
        `networks.image_embedding.embed_crops_of_image` gives the embedding of each crop.

        Args:
          image: raw pixels.
          channels: the names of its channels, in its order; the encoder finds its own among them
            by name and synonym.
          pooling: one of `self.poolings`; None for that of the recipe, else "mean".
          crop: side of the crops in pixels; None for that of training.
          batch_size: crops at once.
          progress: whether to show a bar.

        Raises:
          InputError: an image or channels that do not fit the encoder.
        """
        from mae_jax.networks.image_embedding import embed_crops_of_image

        vectors, _ = embed_crops_of_image(
            self,
            image,
            channels,
            pooling=pooling,
            crop=crop,
            batch_size=batch_size,
            progress=progress,
        )
        if self.recipe is not None and self.recipe.aggregation == "median":
            return np.median(vectors, axis=0).astype(np.float32)
        return vectors.mean(axis=0, dtype=np.float64).astype(np.float32)

    def check_pooling(self, pooling: str) -> None:
        """Raise InputError if the encoder does not have `pooling`."""
        if pooling not in self.poolings:
            raise InputError(
                f"the encoder '{self.name}' has the poolings {', '.join(self.poolings)}, "
                f"not '{pooling}'."
            )

    def check_pixels(self, shape: Sequence[int], channels: Sequence[str] | None = None) -> None:
        """Raise InputError if crops of this shape, with these channels, do not fit the encoder.

        Whole fields are refused if their tokens are too many for attention: more than 4 times the
        side of the training crops.
        """
        if len(shape) != 4:
            raise InputError(
                "pixels must have the axes (batch, channels, height, width), not the shape "
                f"{tuple(shape)}; give a single crop as pixels[None]."
            )
        trained = self.preprocessing.channels
        fixed = bool(trained) and not self.preprocessing.any_channels
        if fixed and shape[1] != len(trained):
            raise InputError(
                f"the encoder '{self.name}' takes the {len(trained)} channels "
                f"{', '.join(trained)}, in this order, not {shape[1]} channels."
            )
        self.check_crop(max(shape[2:]))
        if channels is None:
            return
        names = tuple(channels)
        if len(names) != shape[1]:
            raise InputError(
                f"the pixels have {shape[1]} channels, but {len(names)} are named "
                f"({', '.join(names)}); name the channels of the pixels in their order."
            )
        if len(set(names)) != len(names):
            raise InputError(f"channels are named twice: {', '.join(names)}.")
        if fixed and self.select_channels(names) != names:
            raise InputError(
                f"the encoder '{self.name}' takes the channels {', '.join(trained)} in that order, "
                f"not {', '.join(names)}; `select_channels` gives the order."
            )

    def check_crop(self, side: int) -> None:
        """Raise InputError if crops of `side` pixels are too large for attention."""
        trained = self.preprocessing.crop
        if hasattr(self, "tokens") and side > 4 * trained:
            raise InputError(
                f"crops of {side} pixels per side are more than 4 times those of the encoder's "
                f"training ({trained}): tile them (`mae_jax.data.tile_offsets`; `mae-jax embed` "
                "without --crop does)."
            )

    # ---- compiled functions

    @cached_property
    def compiled(self) -> CompiledFunctions:
        """The compiled functions of this encoder."""
        return CompiledFunctions()

    def pure_forward(
        self, pooling: str, block: int | None, tokens: bool = False
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """(params, pixels) -> (vectors, tokens or None), to be compiled.

        It refers to the encoder weakly, so that what is compiled from it does not keep the encoder
        alive.
        """
        reference = ref(self)

        def forward(params: PyTree, pixels: Any) -> tuple[Any, Any]:
            encoder = cast(Any, reference())
            vectors = encoder.forward(params, pixels, pooling=pooling, block=block)
            return vectors, encoder.tokens(params, pixels, block=block) if tokens else None

        return forward

    def microbatch_pool(
        self, pooling: str, block: int | None, tokens: bool = False
    ) -> MicrobatchPool:
        """`pure_forward` on CPUs, in microbatches."""
        return self.compiled.get(
            ("microbatches", pooling, block, tokens),
            lambda: MicrobatchPool(self.pure_forward(pooling, block, tokens)),
        )

    @cached_property
    def _device_params(self) -> Any:
        return jax.device_put(self.params)


class NetworkEncoder(Encoder):
    """The encoder of a network: a config, parameters and preprocessing.

    Attributes:
      config: the network's config.
    """

    def __init__(
        self,
        config: Any,
        params: dict[str, Any],
        preprocessing: Preprocessing,
        *,
        name: str | None = None,
    ) -> None:
        self.config = config
        self.params = params
        self.preprocessing = preprocessing
        self.name = name or self.default_name()

    def default_name(self) -> str:
        """The name in reports where none is given."""
        return type(self).__name__.removesuffix("Encoder")

    def architecture(self) -> str:
        """The network's configuration as JSON."""
        record = to_dict(self.config)
        # Later fields, whose defaults keep the fingerprints of earlier versions.
        for name, default in _LATER_FIELDS.items():
            if name in record and record[name] == default:
                del record[name]
        return json.dumps(record, sort_keys=True)

    def check_no_block(self, block: int | None) -> None:
        """Raise InputError if a block is asked of a network without blocks."""
        if block is not None:
            raise InputError(f"the encoder '{self.name}' has no blocks to stop after.")
