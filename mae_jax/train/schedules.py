"""Learning-rate schedules, by name; add one here and name it in a config."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

# Of torch.optim.lr_scheduler.OneCycleLR: where the rate starts and ends, and the range of beta1.
DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4
BASE_MOMENTUM, MAX_MOMENTUM = 0.85, 0.95


class Schedule(NamedTuple):
    """The learning rate of every step, counted from 0, and beta1 where it is scheduled too."""

    rate: optax.Schedule
    beta1: optax.Schedule | None = None


def one_cycle(lr: float, warmup: float, final_lr: float, steps: int) -> Schedule:
    """Section A.2: linear from 0 to `lr` in `warmup` of the steps, then a cosine to `final_lr`."""
    warmup_steps = max(1, round(warmup * steps))
    return Schedule(
        optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=lr,
            warmup_steps=warmup_steps,
            decay_steps=max(steps, warmup_steps + 1),
            end_value=final_lr * lr,
        )
    )


def one_cycle_torch(lr: float, warmup: float, final_lr: float, steps: int) -> Schedule:
    """PyTorch's OneCycleLR with its defaults: two cosines, and beta1 from 0.95 to 0.85 and back.

    The rate goes from `lr` / 25 to `lr`, then to `lr` / 250,000 (`final_lr` is not used). With 10 %
    of warm-up in 1,000 steps it starts 0.04 `lr` above `one_cycle`, is up to 0.07 `lr` below it in
    the first half of the warm-up and up to 0.12 `lr` above it in the second; afterwards the two
    differ by less than 0.002 `lr`.
    """
    low = lr / DIV_FACTOR
    return Schedule(
        _two_cosines(warmup, steps, low, lr, low / FINAL_DIV_FACTOR),
        _two_cosines(warmup, steps, MAX_MOMENTUM, BASE_MOMENTUM, MAX_MOMENTUM),
    )


def constant(lr: float, warmup: float, final_lr: float, steps: int) -> Schedule:
    """Linear from 0 to `lr` in `warmup` of the steps, then `lr` (`final_lr` is not used)."""
    warmup_steps = max(1, round(warmup * steps))
    return Schedule(optax.warmup_constant_schedule(0.0, lr, warmup_steps))


# Name in `optimizer.schedule` -> (lr, warmup, final_lr, steps) -> Schedule.
SCHEDULES: dict[str, Callable[[float, float, float, int], Schedule]] = {
    "one_cycle": one_cycle,
    "one_cycle_torch": one_cycle_torch,
    "constant": constant,
}


def _two_cosines(
    warmup: float, steps: int, start: float, middle: float, end: float
) -> optax.Schedule:
    """A cosine from `start` to `middle`, and one to `end`, with the phases of OneCycleLR."""
    turn = warmup * steps - 1.0  # not a whole number in general
    last = max(steps - 1.0, turn + 1e-6)

    def value(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.clip(step / max(turn, 1e-6), 0, 1)
        fall = jnp.clip((step - turn) / (last - turn), 0, 1)
        first = middle + (start - middle) * (1 + jnp.cos(math.pi * rise)) / 2
        second = end + (middle - end) * (1 + jnp.cos(math.pi * fall)) / 2
        return jnp.where(step <= turn, first, second)

    return value
