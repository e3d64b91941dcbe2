"""Optimizer and learning-rate schedule of section A.2."""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mae_jax.train.config import OptimizerConfig

# Of torch.optim.lr_scheduler.OneCycleLR: where the rate starts and ends, and the range of beta1.
DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4
BASE_MOMENTUM, MAX_MOMENTUM = 0.85, 0.95


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate of every step, counted from 0.

    "one_cycle", in the paper's words: linear from 0 to `lr` in `warmup` of the steps, then a
    cosine to `final_lr`.

    "one_cycle_torch", as PyTorch's OneCycleLR with its defaults: a cosine from `lr` / 25 to `lr`,
    then a cosine to `lr` / 250,000. With 10 % of warm-up in 1,000 steps the cosine starts 0.04 `lr`
    above the line, is up to 0.07 `lr` below it in the first half of the warm-up and up to 0.12 `lr`
    above it in the second; afterwards the two differ by less than 0.002 `lr`.
    """
    if config.schedule == "one_cycle_torch":
        low = config.lr / DIV_FACTOR
        return _one_cycle_torch(config, steps, low, config.lr, low / FINAL_DIV_FACTOR)
    warmup = max(1, round(config.warmup * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.lr,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.final_lr * config.lr,
    )


def momentum_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """beta1 (or SGD's momentum) of "one_cycle_torch": from 0.95 to 0.85 and back, as the rate."""
    return _one_cycle_torch(config, steps, MAX_MOMENTUM, BASE_MOMENTUM, MAX_MOMENTUM)


def _one_cycle_torch(
    config: OptimizerConfig, steps: int, start: float, middle: float, end: float
) -> optax.Schedule:
    """A cosine from `start` to `middle`, and one to `end`, with the phases of OneCycleLR."""
    turn = config.warmup * steps - 1.0  # not a whole number in general
    last = max(steps - 1.0, turn + 1e-6)

    def value(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        rise = jnp.clip(step / max(turn, 1e-6), 0, 1)
        fall = jnp.clip((step - turn) / (last - turn), 0, 1)
        first = middle + (start - middle) * (1 + jnp.cos(math.pi * rise)) / 2
        second = end + (middle - end) * (1 + jnp.cos(math.pi * fall)) / 2
        return jnp.where(step <= turn, first, second)

    return value


def decayed(params: Any, no_decay: Sequence[str]) -> Any:
    """True for the parameters that decay: those of 2 or more dimensions that match no pattern."""
    patterns = [re.compile(pattern) for pattern in no_decay]

    def is_decayed(path: tuple[Any, ...], value: jax.Array) -> bool:
        name = str(path[-1].key)
        return value.ndim >= 2 and not any(pattern.search(name) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `steps` steps; gradients are not clipped."""
    rate = schedule(config, steps)
    if config.schedule == "one_cycle_torch":
        make = optax.inject_hyperparams(partial(_transformation, config))
        return make(rate=rate, b1=momentum_schedule(config, steps))
    return _transformation(config, rate, config.b1)


def _transformation(
    config: OptimizerConfig, rate: Any, b1: Any
) -> optax.GradientTransformationExtraArgs:
    mask = partial(decayed, no_decay=config.no_decay)
    decay: dict[str, Any] = {"weight_decay": config.weight_decay, "mask": mask}
    if config.name == "lion":
        return optax.lion(rate, b1=b1, b2=config.b2, **decay)
    if config.name == "adamw":
        return optax.adamw(rate, b1=b1, b2=config.b2, **decay)
    return optax.chain(
        optax.add_decayed_weights(**decay),
        optax.sgd(rate, momentum=b1),
    )
