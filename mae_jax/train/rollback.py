"""Going back to the last good checkpoint, and leaving out the batches since."""

import logging

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
) -> TrainState:
    """The state of the last checkpoint before the trouble, with the batches since left out.

    What follows from it depends on the checkpoint and on `step` alone, so a run that is killed
    here, or before its next checkpoint, comes to the same state again.

    Args:
      state: the state in trouble; it is deleted, so that two states never share the memory.
      step: the step at which the trouble was seen; the batches up to it are left out.
      like: shapes with their shardings.
      checkpoints: of the run; those newer than the one taken are deleted.
      config: says how often a run may go back.

    Raises:
      InputError: the run went back too often, or no checkpoint is old enough.
    """
    trouble, offset, rollbacks, skipped = (
        int(getattr(state.divergence, name))
        for name in ("rollback_step", "skipped_batches", "num_rollbacks", "num_skipped")
    )
    why = (
        f"more than {config.max_skipped} of {config.skip_window} steps after step {trouble} had a "
        "loss that was not finite or a spike"
    )
    advice = "look at the loss in metrics.jsonl, then lower optimizer.lr or mend the data."
    if rollbacks >= config.rollbacks:
        raise InputError(
            f"{why}, and the run has gone back {rollbacks} times already (divergence.rollbacks); "
            f"{advice}"
        )
    for array in jax.tree.leaves(state):
        array.delete()
    try:
        restored = checkpoints.restore(like, until=trouble)
    except InputError as problem:
        raise InputError(f"{why}, and there is no way back: {problem} Or {advice}") from None
    good = int(restored.step)
    checkpoints.delete_after(good)
    offset += step - good
    log.warning(
        "%s: back to the checkpoint of step %d, leaving out the batches of steps %d to %d.",
        why, good, good + 1, step,
    )  # fmt: skip
    # The counts go on from the state in trouble: the checkpoint knows nothing of it.
    counts = {"skipped_batches": offset, "num_rollbacks": rollbacks + 1, "num_skipped": skipped}
    placed = {
        name: jax.device_put(np.int32(count), getattr(like.divergence, name).sharding)
        for name, count in counts.items()
    }
    return restored.replace(divergence=restored.divergence.replace(**placed))
