"""Weakly supervised DenseNets (Section 4.1)."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.networks.classifier_task import ClassifierTask
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.densenet.model import DenseNet
from mae_jax.networks.task import Task


class DenseNetTask(ClassifierTask):
    """DenseNet-161, with running statistics as its model state.

    With AdaBN (norm "adabn") held-out crops are normalized by their own sub-batches, as at
    inference on a plate; the order of the index keeps plates together.
    """

    reinit = ("neck1", "neck2", "classifier")
    run_keys = (*Task.run_keys, "embedding_dims", "norm", "ghost_batch_size", "momentum")
    model: DenseNetConfig

    def logits(
        self, params: PyTree, model_state: PyTree, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], PyTree]:
        variables = {"params": params, "batch_stats": model_state}
        output: Any = DenseNet(self.model).apply(
            variables,
            images,
            train=train or self.model.norm == "adabn",
            output="logits",
            mutable=["batch_stats"],
        )
        logits, updated = output
        return logits, updated["batch_stats"] if train else model_state

    def to_saved(self, params: PyTree, model_state: PyTree) -> PyTree:
        return {"params": params, "batch_stats": model_state}

    def from_saved(self, saved: PyTree) -> tuple[PyTree, PyTree]:
        return saved["params"], saved["batch_stats"]
