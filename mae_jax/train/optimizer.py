"""The optimizers by name: Lion, AdamW and SGD of section A.2, Muon, schedule-free AdamW."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import PyTree
from optax import contrib

from mae_jax.train.config import OptimizerConfig
from mae_jax.train.schedules import SCHEDULES, Schedule

# Updates of matrices as large as AdamW's typically are, so that one rate serves both (Liu et al.,
# "Muon is scalable for LLM training", 2025).
_MUON_RMS = 0.2
_OUTER_LAYER = re.compile(r"patch_embed|conv0|decoder_pred|head")


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


def evaluated_params(
    config: OptimizerConfig, opt_state: optax.OptState, params: PyTree[jax.Array]
) -> PyTree[jax.Array] | None:
    """The parameters to evaluate and to save, where an optimizer has others than it steps from.

    Schedule-free AdamW takes gradients at y = (1 - b1) z + b1 x, and evaluates the average x of its
    iterates z (Defazio et al. 2024); the other optimizers return None.
    """
    if config.name != "schedule-free-adamw":
        return None
    return contrib.schedule_free_eval_params(opt_state, params)


def restarted(opt_state: optax.OptState, params: PyTree[jax.Array]) -> optax.OptState:
    """The initial state of an optimizer for other initial parameters.

    Moments start at zero whatever the parameters are; schedule-free AdamW keeps a copy of them.
    """
    if isinstance(opt_state, contrib.ScheduleFreeState):
        return opt_state._replace(z=jax.tree.map(lambda a: a.copy(), params))
    return opt_state


def orthogonalized(params: PyTree[jax.Array], no_decay: Sequence[str]) -> PyTree[Any]:
    """The axes of the matrices that Muon orthogonalizes; None for parameters left to AdamW.

    Matrices are those that decay, apart from the first and the last layer (patches and outputs are
    no hidden features). A third axis holds one matrix per channel; of kernels of convolutions, the
    window and the inputs are one axis.
    """

    def axes(path: tuple[Any, ...], decays: bool, value: jax.Array) -> Any:
        if not decays or any(_OUTER_LAYER.fullmatch(str(key.key)) for key in path):
            return None
        last = value.ndim - 1
        inputs = tuple(range(last)) if value.ndim == 4 else last - 1
        return contrib.MuonDimensionNumbers(inputs, last)

    return jax.tree_util.tree_map_with_path(axes, decayed(params, no_decay), params)


def _transformation(
    config: OptimizerConfig, rate: Any, b1: Any
) -> optax.GradientTransformationExtraArgs:
    mask = partial(decayed, no_decay=config.no_decay)
    decay: dict[str, Any] = {"weight_decay": config.weight_decay, "mask": mask}
    if config.name == "lion":
        return optax.lion(rate, b1=b1, b2=config.b2, **decay)
    if config.name == "adamw":
        return optax.adamw(rate, b1=b1, b2=config.b2, **decay)
    if config.name == "muon":
        return contrib.muon(
            rate,
            beta=b1,
            weight_decay=config.weight_decay,
            weight_decay_mask=mask,
            adam_b1=b1,
            adam_b2=config.b2,
            muon_weight_dimension_numbers=partial(orthogonalized, no_decay=config.no_decay),
            consistent_rms=_MUON_RMS,
        )
    if config.name == "schedule-free-adamw":
        adamw_without_momentum = optax.chain(
            optax.scale_by_rms(config.b2, eps=1e-8, eps_in_sqrt=False, bias_correction=True),
            optax.add_decayed_weights(**decay),
            optax.scale_by_learning_rate(rate),
        )
        return contrib.schedule_free(adamw_without_momentum, rate, b1=b1)
    return optax.chain(
        optax.add_decayed_weights(**decay),
        optax.sgd(rate, momentum=b1),
    )
