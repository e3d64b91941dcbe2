"""A progress bar, or a line now and then where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
from tqdm import tqdm

from mae_jax.train.callbacks.base import Callback

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


class ProgressBar(Callback):
    """Shows the step, the time left, the loss and the speed, on the first host."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_fit_start(self, trainer: Trainer) -> None:
        if self._bar is not None:  # after a rollback
            self._bar.update(trainer.step - self._bar.n)
            return
        interactive = sys.stderr.isatty()
        self._bar = tqdm(
            total=trainer.num_steps,
            initial=trainer.step,
            desc="train",
            unit="step",
            disable=jax.process_index() != 0,
            mininterval=0.3 if interactive else 20,
            dynamic_ncols=interactive,
        )

    def on_step_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_metrics(self, trainer: Trainer, step: int, metrics: Mapping[str, float]) -> None:
        if self._bar is None or "train/loss" not in metrics:
            return
        shown = {"loss": f"{metrics['train/loss']:.4f}"}
        if "speed/crops_per_second" in metrics:
            shown["crops/s"] = f"{metrics['speed/crops_per_second']:.0f}"
        if "speed/mfu" in metrics:
            shown["MFU"] = f"{100 * metrics['speed/mfu']:.0f} %"
        self._bar.set_postfix(shown, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
