"""The interface of a callback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mae_jax.train.trainer import Trainer


def is_due(step: int, num_steps: int, every: int) -> bool:
    """Whether something that runs every `every` steps, and at the end, runs at `step`."""
    return every > 0 and (step % every == 0 or step == num_steps)


class Callback:
    """Something that accompanies a training run; subclass it and override what is needed.

    All hooks get the `Trainer`, which has the config, the work folder, the mesh, the step, the
    state, the metric writer, `evaluate(name)` and `stop(reason)`. They are called on all hosts.
    `trainer.state` is donated to the next step: do not keep its arrays.

    Attributes:
      every: steps between two calls of `run`; 0 for none.
      blocking: whether `run` waits for the device or takes long. The trainer then waits for the
        step first, so that the time of the one is not counted as that of the other.
    """

    every: int = 0
    blocking: bool = False

    @property
    def name(self) -> str:
        """The name under which times are counted and the state is saved."""
        return type(self).__name__

    def should_run(self, trainer: Trainer) -> bool:
        """Whether `run` is called at `trainer.step`."""
        return is_due(trainer.step, trainer.num_steps, self.every)

    def run(self, trainer: Trainer) -> None:
        """Called after a step, when `should_run`."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called once the state is initialized or restored, and again after a rollback."""

    def on_step_start(self, trainer: Trainer) -> None:
        """Called before every step, at `trainer.step` steps done."""

    def on_step_end(self, trainer: Trainer) -> None:
        """Called after every step has been dispatched; the device may still compute it."""

    def on_metrics(self, trainer: Trainer, step: int, metrics: Mapping[str, float]) -> None:
        """Called with the metrics of a step: of training one step late, of evaluators at once."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called when the last step is done and its state is saved, or the run was interrupted."""

    def close(self) -> None:
        """Called at the very end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """The state to save in checkpoints, ready for JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; {} at the first step and from checkpoints that lack it."""
