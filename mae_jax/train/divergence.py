"""Loss-spike handling: which steps are skipped, and when a run rolls back.

`check_step` runs inside the compiled step, on statistics that the train state carries, so every
host and every resumed run decides alike.
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mae_jax.train.config import DivergenceConfig


class DivergenceState(flax.struct.PyTreeNode):
    """Statistics of the losses and the skipped steps; a part of the train state.

    The order of the fields is that of checkpoints: append, never reorder.

    Attributes:
      mean, variance: running mean and variance of the losses of good steps.
      num_good: number of good steps.
      num_skipped: number of steps that were skipped (that changed nothing).
      last_skipped: indices of the last `max_skipped + 1` skipped steps, the latest last.
      rollback_step: the first step of a divergence, before which the run must roll back; -1 if
        the run has not diverged.
      skipped_batches: batches left out by rolling back: step s takes batch s + skipped_batches.
      num_rollbacks: number of times the run has rolled back.
    """

    # Any: arrays, or the shapes or shardings of arrays.
    mean: Any
    variance: Any
    num_good: Any
    num_skipped: Any
    last_skipped: Any
    rollback_step: Any
    skipped_batches: Any
    num_rollbacks: Any


def initial_divergence(config: DivergenceConfig) -> DivergenceState:
    """The statistics of a run before its first step."""

    # Each an array of its own: the state's buffers are donated, and none may be donated twice.
    def count(value: int = 0) -> Int[Array, ""]:
        return jnp.full((), value, jnp.int32)

    return DivergenceState(
        mean=jnp.zeros((), jnp.float32),
        variance=jnp.zeros((), jnp.float32),
        num_good=count(),
        num_skipped=count(),
        last_skipped=jnp.full(config.max_skipped + 1, -config.skip_window - 1, jnp.int32),
        rollback_step=count(-1),
        skipped_batches=count(),
        num_rollbacks=count(),
    )


def check_step(
    state: DivergenceState,
    step: Int[Array, ""],
    loss: Float[Array, ""],
    norm: Float[Array, ""],
    config: DivergenceConfig,
) -> tuple[Bool[Array, ""], DivergenceState]:
    """Whether a step may change the parameters, and the statistics after it.

    A step is skipped if its loss or gradient norm is not finite, or if its loss exceeds the
    running mean by more than `config.spike` running standard deviations. The deviation is taken
    as at least 1 % of the mean, so that a nearly constant loss does not turn small changes into
    spikes.
    """
    loss = loss.astype(jnp.float32)
    rise = loss - state.mean
    deviation = jnp.maximum(jnp.sqrt(state.variance), 0.01 * jnp.abs(state.mean))
    warm = state.num_good >= config.stats_window
    spike = warm & (rise > config.spike * deviation) & (config.spike > 0)
    good = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spike

    # Plain mean and variance of the first `stats_window` losses; later ones weigh 1 / window.
    weight = 1 / jnp.minimum(state.num_good + 1, config.stats_window).astype(jnp.float32)
    mean = state.mean + weight * rise
    variance = (1 - weight) * (state.variance + weight * rise**2)

    shifted = jnp.roll(state.last_skipped, -1).at[-1].set(step)
    last_skipped = jnp.where(good, state.last_skipped, shifted)
    diverged = ~good & (last_skipped[0] > step - config.skip_window)
    return good, state.replace(
        mean=jnp.where(good, mean, state.mean),
        variance=jnp.where(good, variance, state.variance),
        num_good=state.num_good + good,
        num_skipped=state.num_skipped + ~good,
        last_skipped=last_skipped,
        rollback_step=jnp.where(
            diverged & (state.rollback_step < 0), last_skipped[0], state.rollback_step
        ),
    )
