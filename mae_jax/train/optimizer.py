"""Optimiser and learning-rate schedule of section A.2."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import optax

from mae_jax.train.config import OptimizerConfig


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """One cycle: linear from 0 to `lr` in `warmup` of the steps, then cosine to `final_lr`."""
    warmup = max(1, round(config.warmup * steps))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.lr,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=config.final_lr * config.lr,
    )


def decayed(params: Any, no_decay: Sequence[str]) -> Any:
    """True for the parameters that weight decay shrinks: matrices that no pattern spares."""
    patterns = [re.compile(pattern) for pattern in no_decay]

    def is_decayed(path: tuple[Any, ...], value: jax.Array) -> bool:
        name = str(path[-1].key)
        return value.ndim >= 2 and not any(pattern.search(name) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser for a run of `steps` steps; gradients are not clipped."""
    rate = schedule(config, steps)
    mask = partial(decayed, no_decay=config.no_decay)
    decay: dict[str, Any] = {"weight_decay": config.weight_decay, "mask": mask}
    if config.name == "lion":
        return optax.lion(rate, b1=config.b1, b2=config.b2, **decay)
    if config.name == "adamw":
        return optax.adamw(rate, b1=config.b1, b2=config.b2, **decay)
    return optax.chain(
        optax.add_decayed_weights(**decay),
        optax.sgd(rate, momentum=config.b1),
    )
