"""MU-Nets: the squared error over the blanked squares (Section 4.2)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.networks.task import Batch, Scalars, Task
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.unet.model import UNet, UNetOutput, unet_loss


class UNetTask(Task):
    """The loss of a masked U-Net on raw crops, self-standardized; scalar "mae"."""

    has_reconstruction = True
    run_keys = (*Task.run_keys, "patch")  # the side of masked squares
    model: UNetConfig

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
        loss, parts = unet_loss(self._apply(params, batch["pixels"], key))
        return loss, (parts, model_state)

    def reconstruct(
        self,
        params: PyTree,
        model_state: PyTree,
        batch: Batch,
        key: PRNGKeyArray,
        *,
        channels: Sequence[str] | None = None,
    ) -> tuple[Array, Array, Array]:
        output = self._apply(params, batch["pixels"], key)
        masked = output.target * (1 - output.mask)
        reconstruction = jnp.where(output.mask > 0, output.prediction, output.target)
        return masked, reconstruction, output.target

    def _apply(self, params: PyTree, pixels: Array, key: PRNGKeyArray) -> UNetOutput:
        output: Any = UNet(self.model).apply(
            {"params": params}, self.standardize(pixels), rngs={"mask": key}
        )
        return output
