"""Images of reconstructed validation crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mae_jax.train.callbacks.base import Callback
from mae_jax.viz.panels import reconstruction_grid

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class ReconstructionImages(Callback):
    """Writes an image of the first validation crops, of networks that reconstruct."""

    blocking = True

    def __init__(self, every: int) -> None:
        self.every = every

    def should_run(self, trainer: Trainer) -> bool:
        task = trainer.fns.task
        return (
            super().should_run(trainer)
            and task.has_reconstruction
            and bool(trainer.validation_batches)
        )

    def run(self, trainer: Trainer) -> None:
        batch, channels = trainer.validation_batches[0]
        state, fns = trainer.state, trainer.fns
        images = fns.reconstruct(state.weights, state.model_state, batch, channels)
        masked, reconstructed, original = map(np.asarray, images)
        sheet = reconstruction_grid(masked, reconstructed, original, channels or fns.task.channels)
        trainer.writer.write_image(trainer.step, "reconstruction", sheet)
