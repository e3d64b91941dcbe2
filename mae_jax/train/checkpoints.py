"""Checkpoints: the encoder alone, and all the rest of the state."""

import dataclasses
import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mae_jax.errors import InputError
from mae_jax.train.config import CheckpointConfig
from mae_jax.train.step import TrainState

log = logging.getLogger(__name__)

ITEMS = ("encoder", "rest")
LOSS = "validation_loss"


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Saving is asynchronous and ends with a rename, and old checkpoints go after that, so a kill
    leaves the last whole one. A save that fails (a full disk) is told and does not stop the run.
    The encoder's parameters are an item of their own: fine-tuning reads them and nothing else.
    All hosts must call every method, in the same order.
    """

    def __init__(self, workdir: Path, config: CheckpointConfig) -> None:
        # orbax tells every save at length, and every failure again
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._every = config.every
        self._folder = (workdir / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=RetentionPolicy(config),
            best_fn=lambda metrics: metrics[LOSS],
            cleanup_tmp_directories=True,
        )
        self._manager = _Manager(self._folder, options=options, item_names=ITEMS)
        self._saving: int | None = None  # the step whose save is not known to have ended
        self._lost: int | None = None  # the step whose save failed, until one succeeds

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints there are, one that is being written included."""
        return list(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: TrainState, *, loss: float | None = None, force: bool = False
    ) -> None:
        """Saves when `step` is due, or always with `force`; returns before all is on disk.

        A state in trouble is not saved: a run that resumes replays the steps before it, and so
        goes back as one that never stopped.

        Args:
          step: steps done.
          state: what is saved; it may be used up afterwards.
          loss: the validation loss of this very state, if it was measured.
          force: save though it is not due.
        """
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self._wait_for_save()
        if step == self.latest or not (force or step % self._every == 0):
            return
        if int(state.divergence.rollback_step) >= 0:
            log.warning("step %d is not saved: too many steps before it were skipped.", step)
            return
        self._sync_hosts()
        if self._lost is not None:
            self._remove_partial()
        encoder, rest = _split(state)
        known = loss is not None and math.isfinite(loss)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    encoder=ocp.args.StandardSave(encoder), rest=ocp.args.StandardSave(rest)
                ),
                metrics={LOSS: loss if known else math.inf},
                force=True,
            )
            self._saving = step
        except OSError as problem:
            self._failed(step, problem)

    def finish(self) -> None:
        """Waits until all is on disk.

        Raises:
          InputError: the last save failed.
        """
        self._sync_hosts()
        if self._lost is not None:
            raise InputError(
                f"the state of step {self._lost} could not be saved in {self._folder} (see above); "
                "make room and give the same command again: it goes on from step "
                f"{self.latest or 0}."
            )

    def close(self) -> None:
        """Waits for the save in hand and ends; says it if that save fails."""
        self._wait_for_save()
        self._manager.close()

    def restore(self, like: TrainState, until: int | None = None) -> TrainState:
        """The newest saved state that can be read.

        Those that cannot are told of and moved aside (`checkpoints/broken-STEP`).

        Args:
          like: shapes with the shardings wanted now, on any mesh and number of hosts.
          until: consider only checkpoints at or before this step, and of those only the regular
            ones: so a run goes back to the same place whether a signal interrupted it or not.

        Raises:
          InputError: there is none that can be read.
        """
        self._sync_hosts()
        steps = self.steps
        if until is not None:
            steps = [s for s in steps if s <= until and s % self._every == 0]
        broken: dict[int, str] = {}
        for step in reversed(steps):
            state, problem = self._read(step, like)
            if state is not None:
                if broken:
                    self._quarantine(broken)
                return state
            broken[step] = problem
            log.warning("the checkpoint of step %d cannot be read: %s", step, problem)
        why = next((f"the newest because: {problem}" for problem in broken.values()), "")
        raise InputError(
            f"{self._folder} has no checkpoint that can be read"
            f"{'' if until is None else f' of step {until} or before'}"
            f"{why and f', {why}'}; restore one from a backup, or give another --workdir."
        )

    def delete_after(self, step: int) -> None:
        """Deletes all newer checkpoints, the newest first: their steps are taken anew."""
        self._wait_for_save()
        for newer in reversed([s for s in self.steps if s > step]):
            self._manager.delete(newer)

    def _wait_for_save(self) -> None:
        """Waits for the save in hand, and tells of it if it failed here."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            if self._lost is not None:
                self._remove_partial()  # again: see there
            self._lost = None
        except Exception as problem:  # whatever a disk, a network or another host can do
            self._failed(step, problem)

    def _sync_hosts(self) -> None:
        """Settles on all hosts, so that all know the same checkpoints: those on the disk."""
        self._wait_for_save()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints settled")
            self._manager.reload()

    def _remove_partial(self) -> None:
        """Deletes what failed saves began, which fills the disk; no save may be going on.

        The writer of one item does not hear at once that the other's failed, and may put a file
        into a folder that is being deleted: hence the repetition, and the second sweep after the
        next good save.
        """
        if jax.process_index() != 0:
            return
        for left in self._folder.glob("*.orbax-checkpoint-tmp*"):
            for _ in range(20):
                shutil.rmtree(left, ignore_errors=True)
                if not left.exists():
                    break
                time.sleep(0.05)

    def _failed(self, step: int, problem: Exception) -> None:
        self._lost = step
        log.error(
            "the state of step %d could not be saved: %s. The checkpoint before it stands, and "
            "the next save tries again.", step, _reason(problem),
        )  # fmt: skip
        self._manager.reload()

    def _read(self, step: int, like: TrainState) -> tuple[TrainState | None, str]:
        """The state, or why some host cannot read it; the hosts agree."""
        encoder, rest = _split(like)
        state, problem = None, ""
        try:
            # Without orbax's barriers, at which a host that fails would leave the others waiting.
            alone = ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(),
                active_processes={jax.process_index()},
                barrier_sync_key_prefix=f"host{jax.process_index()}",
            )
            options = ocp.CheckpointManagerOptions(
                read_only=True, lightweight_initialize=True, multiprocessing_options=alone
            )
            with ocp.CheckpointManager(self._folder, options=options, item_names=ITEMS) as manager:
                found = manager.restore(
                    step,
                    args=ocp.args.Composite(
                        encoder=ocp.args.StandardRestore(encoder),
                        rest=ocp.args.StandardRestore(rest),
                    ),
                )
            state = _joined(found["encoder"], found["rest"], like)
        except Exception as failure:  # a torn file may raise anything
            problem = _reason(failure)
        if jax.process_count() > 1:
            read = multihost_utils.process_allgather(np.array(state is not None))
            if not read.all():
                problem = problem or f"host {int(np.argmin(read))} cannot."
                state = None
        return state, problem

    def _quarantine(self, steps: Iterable[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                (self._folder / str(step)).rename(self._folder / f"broken-{step}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints set aside")
        self._manager.reload()


@dataclasses.dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints stay; the config's attributes say how many.

    One that a signal caused stays only while it is the newest, and takes no other's place.
    """

    config: CheckpointConfig

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Answers for each checkpoint (`step`, `metrics`), in order of steps; orbax asks this."""
        config = self.config
        regular = [c.step for c in checkpoints if c.step % config.every == 0]
        kept = {*regular[-config.keep :], *(c.step for c in checkpoints[-1:])}
        losses = {c.step: c.metrics[LOSS] for c in checkpoints if c.metrics}
        measured = [step for step, loss in losses.items() if math.isfinite(loss)]
        kept |= set(sorted(measured, key=losses.__getitem__)[: config.keep_best])
        if config.keep_every:
            kept |= {step for step in regular if step % config.keep_every == 0}
        return [c.step in kept for c in checkpoints]


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """The loop alone asks JAX for that: asking from a thread would turn back JAX's count."""
        return False

    def metrics(self, step: int) -> Any:
        """None where the file is broken, so that a broken checkpoint does not hide the others."""
        try:
            return super().metrics(step)
        except Exception:
            return None


def restore_encoder(workdir: str | Path) -> Any:
    """The encoder's parameters of a run's newest checkpoint, and nothing else is read."""
    folder = Path(workdir).absolute() / "checkpoints"
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options, item_names=ITEMS) as manager:
        args = ocp.args.Composite(encoder=ocp.args.StandardRestore())
        return manager.restore(manager.latest_step(), args=args)["encoder"]


def _split(state: TrainState) -> tuple[Any, Any]:
    """The encoder's parameters (all of a network without a decoder), and the rest."""
    params = state.params
    others = {name: value for name, value in params.items() if name != "encoder"}
    encoder, others = (params["encoder"], others) if "encoder" in params else (params, {})
    # As flat lists: these trees are made of tuples and classes, whose types a reader lacks.
    lists = {
        _SAVED_NAMES.get(name, name): jax.tree.leaves(getattr(state, name))
        for name in _fields(state)
    }
    return encoder, {"params": others, **lists}


def _joined(encoder: Any, rest: Any, like: TrainState) -> TrainState:
    params = {**rest["params"], "encoder": encoder} if "encoder" in like.params else encoder
    trees = {
        name: jax.tree.unflatten(
            jax.tree.structure(getattr(like, name)), rest[_SAVED_NAMES.get(name, name)]
        )
        for name in _fields(like)
    }
    return like.replace(params=params, **trees)


def _fields(state: TrainState) -> list[str]:
    return [f.name for f in dataclasses.fields(state) if f.name != "params"]


# Names in the files where they differ from those of the state.
_SAVED_NAMES = {"divergence": "faults"}


def _reason(problem: BaseException) -> str:
    """What went wrong in a line; a full disk, which tensorstore tells at length, by its name."""
    text = str(problem) or type(problem).__name__
    full = [name for code in (errno.ENOSPC, errno.EDQUOT) if (name := os.strerror(code)) in text]
    return full[0] if full else text.strip().splitlines()[0][:300]
