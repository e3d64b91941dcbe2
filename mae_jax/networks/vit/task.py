"""Weakly supervised vision transformers (Section 4.1)."""

import dataclasses
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.errors import InputError
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

    def adopt(self, initial: ViTConfig) -> ViTConfig:
        """Keeps the crop: a table of positions of another grid is resized to it."""
        if self.crop % initial.patch:
            raise InputError(f"crop {self.crop} must be a multiple of patch {initial.patch}.")
        return dataclasses.replace(super().adopt(initial), grid=self.crop // initial.patch)

    def logits(
        self, params: PyTree, model_state: PyTree, images: Array, key: PRNGKeyArray, *, train: bool
    ) -> tuple[Float[Array, "batch classes"], PyTree]:
        logits: Any = ViT(self.model).apply({"params": params}, images, method=ViT.logits)
        return logits, model_state
