"""The optimizers of section A.2."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import optax

from mae_jax.train.config import OptimizerConfig
from mae_jax.train.schedules import SCHEDULES, Schedule


def schedule(config: OptimizerConfig, steps: int) -> Schedule:
    """The schedule of a run of `steps` steps, as `config.schedule` names it."""
    return SCHEDULES[config.schedule](config.lr, config.warmup, config.final_lr, steps)


def decayed(params: Any, no_decay: Sequence[str]) -> Any:
    """True for the parameters that decay: those of 2 or more dimensions that match no pattern."""
    patterns = [re.compile(pattern) for pattern in no_decay]

    def is_decayed(path: tuple[Any, ...], value: jax.Array) -> bool:
        name = str(path[-1].key)
        return value.ndim >= 2 and not any(pattern.search(name) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer for a run of `steps` steps; gradients are not clipped."""
    rate, beta1 = schedule(config, steps)
    if beta1 is not None:
        make = optax.inject_hyperparams(partial(_transformation, config))
        return make(rate=rate, b1=beta1)
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
