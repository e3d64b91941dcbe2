"""MU-Nets: the squared error over the blanked squares (Section 4.2)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mae_jax.networks.mae import self_standardize
from mae_jax.networks.registry import init_params
from mae_jax.networks.task import Batch, Scalars, Task
from mae_jax.networks.unet.model import MUNet, UNetConfig, unet_loss


class MUNetTask(Task):
    """The loss of a masked U-Net on raw crops, self-standardised; scalar "mae"."""

    has_reconstruction = True
    model: UNetConfig

    def init(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return init_params(self.model, key), {}

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
        loss, parts = unet_loss(self._apply(params, batch["pixels"], key))
        return loss, (parts, model_state)

    def reconstruct(
        self,
        params: Any,
        model_state: Any,
        batch: Batch,
        key: PRNGKeyArray,
        *,
        channels: Sequence[str] | None = None,
    ) -> tuple[Array, Array, Array]:
        found = self._apply(params, batch["pixels"], key)
        masked = found.target * (1 - found.mask)
        return masked, jnp.where(found.mask > 0, found.prediction, found.target), found.target

    def _apply(self, params: Any, pixels: Array, key: PRNGKeyArray) -> Any:
        images = self_standardize(pixels)
        return MUNet(self.model).apply({"params": params}, images, rngs={"mask": key})
