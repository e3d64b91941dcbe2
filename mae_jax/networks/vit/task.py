"""Weakly supervised vision transformers (Section 4.1)."""

from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from mae_jax.networks.classifier_task import ClassifierTask
from mae_jax.networks.vit.config import ViTConfig
from mae_jax.networks.vit.model import ViT


class ViTTask(ClassifierTask):
    """An ordinary ViT, classified from its class token."""

    reinit = ("head",)
    model: ViTConfig

    @property
    def crop(self) -> int:
        return self.model.patch * self.model.grid

    def logits(
        self, params: Any, model_state: Any, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], Any]:
        logits: Any = ViT(self.model).apply({"params": params}, images, method=ViT.logits)
        return logits, model_state
