"""Optimiser and learning-rate schedule of section A.2."""

from typing import Any

import jax
import optax

from mae_jax.train.config import OptimizerConfig

# Vectors that are stored with more than one dimension, and so look like matrices by their shape.
SPARED = ("token", "position", "gamma", "bias", "scale")


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


def decayed(params: Any) -> Any:
    """True for the parameters that weight decay shrinks: matrices and kernels."""

    def is_decayed(path: tuple[Any, ...], value: jax.Array) -> bool:
        name = str(path[-1].key)
        return value.ndim >= 2 and not any(word in name for word in SPARED)

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser for a run of `steps` steps; gradients are not clipped."""
    rate = schedule(config, steps)
    decay: dict[str, Any] = {"weight_decay": config.weight_decay, "mask": decayed}
    if config.name == "lion":
        return optax.lion(rate, b1=config.b1, b2=config.b2, **decay)
    if config.name == "adamw":
        return optax.adamw(rate, b1=config.b1, b2=config.b2, **decay)
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(rate, momentum=config.b1),
    )
