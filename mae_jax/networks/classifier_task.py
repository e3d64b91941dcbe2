"""Weak supervision: classify the perturbation of a crop's well (Section 4.1)."""

from abc import abstractmethod
from collections.abc import Sequence

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from mae_jax.networks.task import Batch, Scalars, Task


class ClassifierTask(Task):
    """Cross-entropy over perturbations; scalar "accuracy"."""

    labelled = True

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
        images = self.standardize(batch["pixels"])
        logits, state = self.logits(params, model_state, images, key, train=train)
        loss, accuracy = classification(logits, batch["label"])
        return loss, ({"accuracy": accuracy}, state)

    @abstractmethod
    def logits(
        self, params: PyTree, model_state: PyTree, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], PyTree]:
        """Scores of the classes, and the new model state."""


def classification(
    logits: Float[Array, "batch classes"], label: Int[Array, " batch"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy and accuracy over the crops that have a class (label >= 0)."""
    known = (label >= 0).astype(jnp.float32)
    count = jnp.maximum(known.sum(), 1.0)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))
    right = logits.argmax(-1) == label
    return (entropy * known).sum() / count, (right * known).sum() / count
