"""Saving, verifying and restoring the train state of a run."""

import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from mae_jax.errors import InputError, MachineError
from mae_jax.train import checkpoint_format as formats
from mae_jax.train.abandoned_io import collect_abandoned_io, silence_abandoned_io
from mae_jax.train.config import CheckpointConfig, DivergenceConfig
from mae_jax.train.retention import LOSS, RetentionPolicy
from mae_jax.train.step import TrainState
from mae_jax.weights.checksum import mismatches, stacked_checksums, to_hex

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Saving is asynchronous and ends with a rename, and old checkpoints are deleted after that, so
    that a kill leaves the last whole one. A save that fails (a full disk) is logged and does not
    stop the run. Every checkpoint holds the checksums of its arrays, computed on the devices that
    held them; one that does not match them is not restored.

    All hosts must call every method, in the same order.

    Args:
      workdir: the folder of the run.
      config: when to save, and what to keep.
      divergence: names the snapshots that a run can roll back to.
    """

    def __init__(
        self, workdir: Path, config: CheckpointConfig, divergence: DivergenceConfig | None = None
    ) -> None:
        silence_abandoned_io()
        self._policy = RetentionPolicy(config, divergence or DivergenceConfig())
        self._folder = (workdir / "checkpoints").absolute()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            best_fn=lambda metrics: metrics[LOSS],
            cleanup_tmp_directories=True,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._manager = _Manager(self._folder, options=options, item_names=formats.ITEMS)
        except OSError as problem:
            raise InputError(
                f"{self._folder} cannot be written ({_reason(problem)}); make it writable, or "
                "give another --workdir."
            ) from None
        self._saving: int | None = None  # the step of the save in progress
        self._failed_step: int | None = None  # the step whose save failed, until one succeeds

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, one that is being written included."""
        return list(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def is_due(self, step: int) -> bool:
        """Whether `save` saves at a step without `force`."""
        return step != self.latest and self._policy.is_regular(step)

    def poll(self) -> None:
        """Logs the failure of a save that has ended meanwhile."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self._wait_for_save()

    def save(
        self,
        step: int,
        state: TrainState,
        *,
        callbacks: Mapping[str, Any] | None = None,
        loss: float | None = None,
        force: bool = False,
    ) -> None:
        """Saves when `step` is due, or always with `force`; returns before all is on disk.

        A state that has diverged is not saved: a run that resumes repeats the steps before the
        divergence, and so rolls back as one that was never interrupted.

        Args:
          step: steps done.
          state: the train state, whose arrays may be donated afterwards.
          callbacks: states of callbacks by name, ready for JSON.
          loss: the validation loss of this very state, if it was measured.
          force: save although it is not due.
        """
        self.poll()
        if step == self.latest or not (force or self.is_due(step)):
            return
        if int(state.divergence.rollback_step) >= 0:
            log.warning("step %d is not saved: too many steps before it were skipped.", step)
            return
        self._sync_hosts()
        if self._failed_step is not None:
            self._remove_partial()
        tree = formats.to_tree(state)
        meta = formats.to_meta(to_hex(tree, np.asarray(stacked_checksums(tree))), callbacks or {})
        known = loss is not None and math.isfinite(loss)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta)
                ),
                metrics={LOSS: loss if known else math.inf},
                force=True,
            )
            self._saving = step
        except OSError as problem:
            self._log_failure(step, problem)

    def finish(self) -> None:
        """Waits until all is on disk.

        Raises:
          MachineError: the last save failed.
        """
        self._sync_hosts()
        if self._failed_step is not None:
            raise MachineError(
                f"{self._folder}: the state of step {self._failed_step} could not be saved (see "
                "above); free disk space and run the same command: it resumes from step "
                f"{self.latest or 0}."
            )

    def close(self) -> None:
        """Waits for the save in progress, logs it if it fails, and stops."""
        self._wait_for_save()
        self._manager.close()

    def restore(self, like: TrainState, until: int | None = None) -> TrainState:
        """The newest saved state that can be read and matches its checksums.

        See `restore_with_callbacks`.
        """
        return self.restore_with_callbacks(like, until)[0]

    def restore_with_callbacks(
        self, like: TrainState, until: int | None = None
    ) -> tuple[TrainState, dict[str, Any] | None]:
        """The newest readable state, and the states of callbacks (None: version 0.1).

        Checkpoints that cannot be read are logged and moved to `checkpoints/broken-STEP`.

        Args:
          like: shapes with the shardings wanted now, on any mesh and number of hosts.
          until: consider only snapshots at or before this step: so a run rolls back to the same
            state whether it was interrupted or not, and whatever else was saved.

        Raises:
          InputError: no checkpoint can be read.
        """
        self._sync_hosts()
        steps = self.steps
        if until is not None:
            steps = [s for s in steps if s <= until and self._policy.is_snapshot(s)]
        unreadable: dict[int, str] = {}
        for step in reversed(steps):
            state, callbacks, problem = self._read(step, like)
            if state is not None:
                if unreadable:
                    self._quarantine(unreadable)
                return state, callbacks
            unreadable[step] = problem
            log.warning("the checkpoint of step %d cannot be read: %s", step, problem)
        reason = next((f", the newest because: {text}" for text in unreadable.values()), "")
        raise InputError(
            f"{self._folder} has no checkpoint that can be read"
            f"{'' if until is None else f' of step {until} or before'}{reason.rstrip('.')}; "
            "restore one from a backup, or give another --workdir."
        )

    def delete_after(self, step: int) -> None:
        """Deletes all newer checkpoints, the newest first."""
        self._wait_for_save()
        for newer in reversed([s for s in self.steps if s > step]):
            self._manager.delete(newer)

    def _wait_for_save(self) -> None:
        """Waits for the save in progress, and logs it if it failed on this host."""
        step, self._saving = self._saving, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            if self._failed_step is not None:
                self._remove_partial()  # again: see there
            self._failed_step = None
        except Exception as problem:  # whatever a disk, a network or another host can do
            self._log_failure(step, problem)

    def _sync_hosts(self) -> None:
        """Waits for saves on all hosts, so that all see the same checkpoints on disk."""
        self._wait_for_save()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints synchronized")
            self._manager.reload()

    def _remove_partial(self) -> None:
        """Deletes the remains of failed saves, which fill the disk; no save may be in progress.

        The writer of one item learns late that the other's failed, and may put a file into a
        folder that is being deleted: hence the repetition, and the second removal after the next
        good save.
        """
        if jax.process_index() != 0:
            return
        for partial in self._folder.glob("*.orbax-checkpoint-tmp*"):
            for _ in range(20):
                shutil.rmtree(partial, ignore_errors=True)
                if not partial.exists():
                    break
                time.sleep(0.05)

    def _log_failure(self, step: int, problem: Exception) -> None:
        self._failed_step = step
        log.error(
            "the state of step %d could not be saved: %s. The checkpoint before it is kept, and "
            "the next save tries again.", step, _reason(problem),
        )  # fmt: skip
        self._manager.reload()
        collect_abandoned_io()

    def _read(
        self, step: int, like: TrainState
    ) -> tuple[TrainState | None, dict[str, Any] | None, str]:
        """(state, states of callbacks, ""), or (None, None, why some host cannot read it)."""
        state, checksums, callbacks, problem = None, None, None, ""
        try:
            state, checksums, callbacks = self._read_on_this_host(step, like)
        except Exception as failure:  # a damaged file may raise anything
            problem = _reason(failure)
        if state is None:
            collect_abandoned_io()
        state, problem = _agreed(state, problem)
        if state is None or checksums is None:
            return state, callbacks, problem
        # A computation of all hosts: only after all have read the state.
        tree = formats.to_tree(state)
        damaged = mismatches(tree, np.asarray(stacked_checksums(tree)), checksums)
        if damaged:
            problem = f"{len(damaged)} arrays differ from their checksums, {damaged[0]} first"
            for array in jax.tree.leaves(state):
                array.delete()
            return None, None, problem
        return state, callbacks, ""

    def _read_on_this_host(
        self, step: int, like: TrainState
    ) -> tuple[TrainState, dict[str, str] | None, dict[str, Any] | None]:
        # Without orbax's barriers, at which a host that fails would leave the others waiting.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=f"host{jax.process_index()}",
        )
        options = ocp.CheckpointManagerOptions(
            read_only=True, lightweight_initialize=True, multiprocessing_options=alone
        )
        v0_1 = (self._folder / str(step) / formats.V0_1_ITEMS[0]).is_dir()
        items = formats.V0_1_ITEMS if v0_1 else formats.ITEMS
        restored = ocp.args.StandardRestore
        with ocp.CheckpointManager(self._folder, options=options, item_names=items) as manager:
            if v0_1:
                encoder, rest = formats.to_v0_1_trees(like)
                args = ocp.args.Composite(encoder=restored(encoder), rest=restored(rest))
                saved = manager.restore(step, args=args)
                state = formats.from_v0_1_trees(saved["encoder"], saved["rest"], like)
                return state, None, None
            args = ocp.args.Composite(
                state=restored(formats.to_tree(like)), meta=ocp.args.JsonRestore()
            )
            saved = manager.restore(step, args=args)
        checksums, callbacks = formats.from_meta(saved["meta"])
        return formats.from_tree(saved["state"], like), checksums, callbacks

    def _quarantine(self, steps: Iterable[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                (self._folder / str(step)).rename(self._folder / f"broken-{step}")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints quarantined")
        self._manager.reload()


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


def _agreed(state: TrainState | None, problem: str) -> tuple[TrainState | None, str]:
    """The state if all hosts have read it, else None and a reason."""
    if jax.process_count() > 1:
        read = multihost_utils.process_allgather(np.array(state is not None))
        if not read.all():
            return None, problem or f"host {int(np.argmin(read))} cannot read it."
    return state, problem


def _reason(problem: BaseException) -> str:
    """What went wrong in a line; a full disk, which tensorstore tells at length, by its name."""
    text = str(problem) or type(problem).__name__
    full = [name for code in (errno.ENOSPC, errno.EDQUOT) if (name := os.strerror(code)) in text]
    return full[0] if full else text.strip().splitlines()[0][:300]
