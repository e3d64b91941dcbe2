"""Weak supervision: a network tells from a crop which perturbation its well got (Section 4.1)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mae_jax.networks.densenet.model import DenseNet, DenseNetConfig
from mae_jax.networks.mae import self_standardize
from mae_jax.networks.registry import init_params
from mae_jax.networks.task import Batch, Scalars, Task
from mae_jax.networks.vit.model import ViT, ViTConfig


class _Classifier(Task):
    """Cross-entropy over perturbations; scalar "accuracy"."""

    labelled = True

    def loss(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        key: PRNGKeyArray,
        *,
        train: bool,
        channels: Sequence[str] | None = None,
    ) -> tuple[Float[Array, ""], tuple[Scalars, Any]]:
        images = self_standardize(batch["pixels"])
        logits, state = self.logits(params, model_state, images, key, train=train)
        loss, accuracy = classification(logits, batch["label"])
        return loss, ({"accuracy": accuracy}, state)

    @abstractmethod
    def logits(
        self, params: Any, model_state: Any, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], Any]:
        """Scores of the classes, and the new model state."""


class DenseNetTask(_Classifier):
    """DenseNet-161, with running statistics as its model state.

    With AdaBN (norm "adabn") held-out crops are normalised by their own sub-batches, as at
    inference on a plate; the order of the index keeps plates together.
    """

    reinit = ("neck1", "neck2", "classifier")
    model: DenseNetConfig

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        variables = init_params(self.model, key)
        return variables["params"], variables["batch_stats"]

    def logits(
        self, params: Any, model_state: Any, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], Any]:
        variables = {"params": params, "batch_stats": model_state}
        found: Any = DenseNet(self.model).apply(
            variables,
            images,
            train=train or self.model.norm == "adabn",
            output="logits",
            mutable=["batch_stats"],
        )
        logits, changed = found
        return logits, changed["batch_stats"] if train else model_state

    def to_saved(self, params: Any, model_state: Any) -> Any:
        return {"params": params, "batch_stats": model_state}

    def from_saved(self, saved: Any) -> tuple[Any, Any]:
        return saved["params"], saved["batch_stats"]


class ViTTask(_Classifier):
    """An ordinary ViT, classified from its class token."""

    reinit = ("head",)
    model: ViTConfig

    @property
    def crop(self) -> int:
        return self.model.patch * self.model.grid

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return init_params(self.model, key), {}

    def logits(
        self, params: Any, model_state: Any, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], Any]:
        logits: Any = ViT(self.model).apply({"params": params}, images, method=ViT.logits)
        return logits, model_state


def classification(
    logits: Float[Array, " batch classes"], label: Int[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy and accuracy over the crops that have a class (label >= 0)."""
    known = (label >= 0).astype(jnp.float32)
    count = jnp.maximum(known.sum(), 1.0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
    right = logits.argmax(-1) == label
    return (entropy * known).sum() / count, (right * known).sum() / count
