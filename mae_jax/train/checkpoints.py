"""Checkpoints: the encoder alone, and all the rest of the state."""

import logging
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mae_jax.train.config import CheckpointConfig
from mae_jax.train.step import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Saving is asynchronous and ends with a rename, so a kill leaves the last whole one. The
    encoder's parameters are an item of their own: fine-tuning reads them and nothing else.
    """

    def __init__(self, workdir: Path, config: CheckpointConfig) -> None:
        logging.getLogger("absl").setLevel(logging.WARNING)  # orbax tells every save at length
        options = ocp.CheckpointManagerOptions(
            save_interval_steps=config.every, max_to_keep=config.keep, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(
            (workdir / "checkpoints").absolute(), options=options, item_names=("encoder", "rest")
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, *, force: bool = False) -> None:
        """Saves when `step` is due, or always with `force`; returns before all is on disk."""
        if step == self.latest or not (force or self._manager.should_save(step)):
            return
        encoder, rest = _split(state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                encoder=ocp.args.StandardSave(encoder), rest=ocp.args.StandardSave(rest)
            ),
            force=True,
        )

    def restore(self, like: TrainState) -> TrainState:
        """The newest state; `like` holds shapes with the shardings wanted now, on any mesh."""
        encoder, rest = _split(like)
        found = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(
                encoder=ocp.args.StandardRestore(encoder), rest=ocp.args.StandardRestore(rest)
            ),
        )
        return _joined(found["encoder"], found["rest"], like)

    def close(self) -> None:
        """Waits until all is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def restore_encoder(workdir: str | Path) -> Any:
    """The encoder's parameters of a run's newest checkpoint, and nothing else is read."""
    folder = Path(workdir).absolute() / "checkpoints"
    with ocp.CheckpointManager(folder, item_names=("encoder", "rest")) as manager:
        args = ocp.args.Composite(encoder=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=args)["encoder"]


def _split(state: TrainState) -> tuple[Any, Any]:
    """The encoder's parameters (all of a network without a decoder), and the rest."""
    params = state.params
    others = {name: value for name, value in params.items() if name != "encoder"}
    encoder, others = (params["encoder"], others) if "encoder" in params else (params, {})
    rest = {
        "step": state.step,
        "skipped": state.skipped,
        "params": others,
        # As flat lists: an optimiser's state is made of tuples, whose types a reader lacks.
        "opt_state": jax.tree.leaves(state.opt_state),
        "model_state": jax.tree.leaves(state.model_state),
        "ema": jax.tree.leaves(state.ema),
    }
    return encoder, rest


def _joined(encoder: Any, rest: Any, like: TrainState) -> TrainState:
    def shaped(name: str) -> Any:
        return jax.tree.unflatten(jax.tree.structure(getattr(like, name)), rest[name])

    whole = "encoder" not in like.params
    return TrainState(
        step=rest["step"],
        skipped=rest["skipped"],
        params=encoder if whole else {**rest["params"], "encoder": encoder},
        opt_state=shaped("opt_state"),
        model_state=shaped("model_state"),
        ema=shaped("ema"),
    )
