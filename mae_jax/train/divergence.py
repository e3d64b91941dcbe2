"""Steps that go wrong: which ones are skipped, and when a run should go back.

`judge` runs inside the compiled step, on numbers that the state carries, so every host and every
resumed run decides alike.
"""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mae_jax.train.config import DivergenceConfig


class Faults(flax.struct.PyTreeNode):
    """What a run remembers of its losses and its faults; a part of the state that is saved.

    Attributes:
      mean, variance: of the losses of good steps, running.
      seen: good steps so far.
      skipped: steps that changed nothing, so far.
      last: the numbers of the last `max_skipped + 1` steps skipped, the latest last.
      trouble: the first of the steps that were too many, or -1 while there are none.
      offset: batches left out by going back: step s takes batch s + offset.
      rollbacks: how often the run went back.
    """

    mean: Any
    variance: Any
    seen: Any
    skipped: Any
    last: Any
    trouble: Any
    offset: Any
    rollbacks: Any


def no_faults(config: DivergenceConfig) -> Faults:
    """The memory of a run that has not begun."""
    # Each an array of its own: the state's buffers are donated, and none may be given away twice.
    counts = {name: jnp.zeros((), jnp.int32) for name in ("seen", "skipped", "offset", "rollbacks")}
    return Faults(
        mean=jnp.zeros((), jnp.float32),
        variance=jnp.zeros((), jnp.float32),
        last=jnp.full(config.max_skipped + 1, -config.skip_window - 1, jnp.int32),
        trouble=jnp.full((), -1, jnp.int32),
        **counts,
    )


def judge(
    faults: Faults,
    step: Int[Array, ""],
    loss: Float[Array, ""],
    norm: Float[Array, ""],
    config: DivergenceConfig,
) -> tuple[Bool[Array, ""], Faults]:
    """Whether a step may change the parameters, and the memory after it.

    A step is bad whose loss or gradient norm is not finite, or whose loss stands more than
    `config.spike` running deviations above the running mean. A deviation counts as at least one
    hundredth of the mean: a loss that hardly moves is no reason to fear one that moves a little.
    """
    loss = loss.astype(jnp.float32)
    rise = loss - faults.mean
    deviation = jnp.maximum(jnp.sqrt(faults.variance), 0.01 * jnp.abs(faults.mean))
    known = faults.seen >= config.stats_window
    spike = known & (rise > config.spike * deviation) & (config.spike > 0)
    good = jnp.isfinite(loss) & jnp.isfinite(norm) & ~spike

    # Plain mean and variance of the first `stats_window` losses; later ones each weigh
    # 1 / stats_window.
    weight = 1 / jnp.minimum(faults.seen + 1, config.stats_window).astype(jnp.float32)
    mean = faults.mean + weight * rise
    variance = (1 - weight) * (faults.variance + weight * rise**2)

    last = jnp.where(good, faults.last, jnp.roll(faults.last, -1).at[-1].set(step))
    many = ~good & (last[0] > step - config.skip_window)
    return good, faults.replace(
        mean=jnp.where(good, mean, faults.mean),
        variance=jnp.where(good, variance, faults.variance),
        seen=faults.seen + good,
        skipped=faults.skipped + ~good,
        last=last,
        trouble=jnp.where(many & (faults.trouble < 0), last[0], faults.trouble),
    )
