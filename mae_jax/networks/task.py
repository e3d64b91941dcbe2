"""The interface between the training loop and a network: the task."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.config_keys import with_key
from mae_jax.flops import TRAINING_FACTOR
from mae_jax.networks.flops import traced_flops
from mae_jax.nn.standardize import DEFAULT_EPS
from mae_jax.weights.preprocessing import Preprocessing

# "pixels": raw crops (batch, channels, height, width) in the files' type; "label": (batch,) int32,
# the number of each crop's class or -1 for none, if the task is `labelled`.
Batch = dict[str, Any]
Scalars = dict[str, Float[Array, ""]]


class Task(ABC):
    """A network and its training objective; its methods are pure functions and can be jitted.

    Attributes:
      model: the network's config, which is saved with its weights.
      channels: names of the channels it is trained on.
      crop: side of its crops, in pixels.
      labelled: whether batches hold a "label".
      has_reconstruction: whether `reconstruct` is implemented.
      scale, eps: of the preprocessing of raw pixels (`Preprocessing`).
      reinit: top-level names of parameters that keep their initial values in a warm start.
      run_keys: names of config keys, nested ones too, that belong to a training run and not to the
        architecture: a run that continues from another model keeps its own.
    """

    labelled: ClassVar[bool] = False
    has_reconstruction: ClassVar[bool] = False
    reinit: ClassVar[tuple[str, ...]] = ()
    run_keys: ClassVar[tuple[str, ...]] = (
        *("channels", "classes", "crop", "mask_ratio", "drop_path"),
        *("attention", "dtype", "remat", "scan"),
    )

    scale: float | None = None
    eps: float = DEFAULT_EPS

    def __init__(self, model: Any, crop: int = 256) -> None:
        self.model = model
        self._crop = crop

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that the network is trained on, in their order."""
        return self.model.channels

    @property
    def crop(self) -> int:
        """Side of the training crops, in pixels: the config's, or that of the task's data."""
        return getattr(self.model, "crop", self._crop)

    @property
    def _network(self) -> Any:
        from mae_jax.networks.registry import of_config  # which imports this module

        return of_config(self.model)

    @property
    def forward_flops(self) -> float:
        """FLOPs of one crop's forward pass in training."""
        by_formula = self._network.forward_flops
        if by_formula is not None:
            return by_formula(self.model, self.crop)
        # Kernels are opaque to tracing, so the trace is of plain attention.
        task = type(self)(with_key(self.model, "attention", "xla"), self.crop)
        key = jax.random.key(0)

        def loss(params: PyTree, model_state: PyTree, batch: Batch) -> Any:
            return task.loss(params, model_state, batch, key, train=False)[0]

        return traced_flops(loss, *jax.eval_shape(task.init, key), task.batch(1))

    @property
    def flops(self) -> float:
        """FLOPs of one crop in a training step; what rematerialization repeats does not count."""
        return TRAINING_FACTOR * self.forward_flops

    def init(self, key: PRNGKeyArray) -> tuple[PyTree, PyTree]:
        """Fresh (parameters, model state): plain nested dicts.

        The model state is what the network itself changes in training (running statistics of
        batch normalization); {} if there is none.
        """
        return self.from_saved(self._network.init(self.model, key))

    def standardize(self, pixels: Array) -> Float[Array, "batch channels height width"]:
        """Raw pixels as the network sees them, here and wherever it is used later."""
        return self.preprocessing().standardize(pixels)

    @abstractmethod
    def loss(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: PRNGKeyArray,
        *,
        train: bool,
        channels: Sequence[str] | None = None,
    ) -> tuple[Float[Array, ""], tuple[Scalars, PyTree]]:
        """The loss of a batch of raw crops, its parts by name, and the new model state.

        Args:
          key: for masks and dropped paths.
          train: True in a training step, False in validation.
          channels: names of the crops' channels, in their order (static); None for all of the
            network's.
        """

    def reconstruct(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: PRNGKeyArray,
        *,
        channels: Sequence[str] | None = None,
    ) -> tuple[Array, Array, Array]:
        """The masked, the reconstructed and the original crops, all standardized."""
        raise NotImplementedError(f"{type(self).__name__} has no reconstruction.")

    def adopt(self, initial: Any) -> Any:
        """The network's config with the architecture of `initial`, but its own `run_keys`.

        Raises:
          InputError: the two do not fit together.
        """
        return _merge(initial, self.model, self.run_keys)

    def update_mask(self, params: PyTree, channels: Sequence[str] | None) -> PyTree | None:
        """A mask of the parameters that a batch of these channels updates, or None for all.

        A tree like `params` of bool arrays that broadcast to them: parameters without gradients in
        a batch must not be changed by momentum or decay either.
        """
        return None

    def to_saved(self, params: PyTree, model_state: PyTree) -> PyTree:
        """The parameters as a saved model holds them (`networks.saved_model`)."""
        return params

    def from_saved(self, saved: PyTree) -> tuple[PyTree, PyTree]:
        """The inverse of `to_saved`."""
        return saved, {}

    def preprocessing(self) -> Preprocessing:
        """The preprocessing that the network is trained with: saved with its weights."""
        return dataclasses.replace(
            self._network.default_preprocessing(self.model),
            crop=self.crop,
            scale=self.scale,
            eps=self.eps,
        )

    def batch(self, count: int, dtype: Any = jnp.uint16) -> Batch:
        """Shapes and types of a batch of `count` crops."""
        shape = (count, len(self.channels), self.crop, self.crop)
        batch: Batch = {"pixels": jax.ShapeDtypeStruct(shape, dtype)}
        if self.labelled:
            batch["label"] = jax.ShapeDtypeStruct((count,), jnp.int32)
        return batch


def _merge(initial: Any, config: Any, kept: tuple[str, ...]) -> Any:
    """`config` with the values of `initial`, except for keys of the names `kept`."""
    changes = {}
    for field in dataclasses.fields(config):
        old, new = getattr(config, field.name), getattr(initial, field.name)
        if field.name not in kept:
            nested = dataclasses.is_dataclass(old) and dataclasses.is_dataclass(new)
            changes[field.name] = _merge(new, old, kept) if nested else new
    return dataclasses.replace(config, **changes)
