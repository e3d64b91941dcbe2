"""Rolling back to the last good snapshot, leaving out the batches since."""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mae_jax.errors import InputError
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.config import DivergenceConfig
from mae_jax.train.step import TrainState

log = logging.getLogger(__name__)


def roll_back(
    state: TrainState,
    step: int,
    like: TrainState,
    checkpoints: Checkpoints,
    config: DivergenceConfig,
) -> tuple[TrainState, Mapping[str, Any] | None]:
    """The last snapshot before the divergence, and its states of callbacks.

    The result depends on the snapshot and on `step` alone, so a run that is killed here, or before
    its next checkpoint, comes to the same state again.

    Args:
      state: the state that has diverged; it is deleted, so that two states never share the memory.
      step: the step at which that was noticed; the batches up to it are left out.
      like: shapes with their shardings.
      checkpoints: of the run; those newer than the snapshot are deleted.
      config: holds the number of rollbacks allowed.

    Raises:
      InputError: the run has rolled back too often, or no snapshot is old enough.
    """
    divergence = state.divergence
    first_bad, num_rollbacks = int(divergence.rollback_step), int(divergence.num_rollbacks)
    skipped_batches, num_skipped = int(divergence.skipped_batches), int(divergence.num_skipped)
    reason = (
        f"more than {config.max_skipped} of {config.skip_window} steps after step {first_bad} had "
        "a loss that was not finite or a spike"
    )
    advice = "look at the loss in metrics.jsonl, then lower optimizer.lr or correct the data."
    if num_rollbacks >= config.rollbacks:
        raise InputError(
            f"{reason}, and the run has rolled back {num_rollbacks} times already "
            f"(divergence.rollbacks); {advice}"
        )
    for array in jax.tree.leaves(state):
        array.delete()
    try:
        restored, callbacks = checkpoints.restore_with_callbacks(like, until=first_bad)
    except InputError as problem:
        raise InputError(
            f"{reason}, and there is no snapshot to roll back to "
            f"(divergence.snapshot_every={config.snapshot_every}): {problem} Or {advice}"
        ) from None
    good_step = int(restored.step)
    checkpoints.delete_after(good_step)
    log.warning(
        "%s: rolled back to the checkpoint of step %d, leaving out the batches of steps %d to %d.",
        reason, good_step, good_step + 1, step,
    )  # fmt: skip
    # The counts continue those of the diverged state: the checkpoint does not know them.
    counts = {
        "skipped_batches": skipped_batches + step - good_step,
        "num_rollbacks": num_rollbacks + 1,
        "num_skipped": num_skipped,
    }
    arrays = {
        name: jax.device_put(np.int32(count), getattr(like.divergence, name).sharding)
        for name, count in counts.items()
    }
    return restored.replace(divergence=restored.divergence.replace(**arrays)), callbacks
