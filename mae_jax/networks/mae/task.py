"""Masked autoencoders, joint and channel-agnostic: Equations 1 to 3 on the masked patches."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.networks.mae.config import MAEConfig
from mae_jax.networks.mae.losses import mae_loss
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.reconstruction import reconstruct
from mae_jax.networks.task import Batch, Scalars, Task


class MAETask(Task):
    """L_MAE+ (Equation 3) of raw crops, self-standardized; scalars "mae" and "fourier"."""

    has_reconstruction = True
    run_keys = (*Task.run_keys, "norm_pix", "fourier_weight", "fourier_scale")
    model: MAEConfig

    @property
    def channels(self) -> tuple[str, ...]:
        return self.model.encoder.channels

    @property
    def crop(self) -> int:
        return self.model.encoder.crop

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
        mask_key, path_key = jax.random.split(key)
        output: Any = MAE(self.model).apply(
            {"params": params},
            self.standardize(batch["pixels"]),
            channels=channels,
            train=train,
            rngs={"mask": mask_key, "drop_path": path_key},
        )
        loss, parts = mae_loss(output, self.model)
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
        images = self.standardize(batch["pixels"])
        result = reconstruct(MAE(self.model), params, images, channels=channels, rng=key)
        return result.masked, result.reconstruction, result.original

    def update_mask(self, params: PyTree, channels: Sequence[str] | None) -> PyTree | None:
        """All but the decoders of channels that the batch lacks."""
        if channels is None or set(channels) == set(self.channels):
            return None
        in_batch = np.array([name in channels for name in self.channels])

        def mask(path: tuple[Any, ...], value: Any) -> np.ndarray:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not name.startswith(("decoder/block_", "decoder/channel_tokens")):
                return np.array(True)
            # Channels are along the first axis.
            return in_batch.reshape(-1, *[1] * (value.ndim - 1))

        return jax.tree_util.tree_map_with_path(mask, params)
