"""One optimiser step, and the state it carries."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from mae_jax.losses import mae_loss
from mae_jax.models import MAE, MAEConfig, reconstruct, self_standardize
from mae_jax.train.config import TrainConfig

Scalars = dict[str, Float[Array, ""]]
StepFunction = Callable[["TrainState", Any], tuple["TrainState", Scalars]]


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes: what is saved and restored (or its shapes and shardings).

    Attributes:
      step: optimiser steps done.
      skipped: steps whose loss or gradient was not finite, and which therefore changed nothing.
      params, opt_state: plain nested dicts and the optimiser's state, float32.
    """

    step: Any
    skipped: Any
    params: Any
    opt_state: Any


def initial_state(
    config: TrainConfig, transform: optax.GradientTransformation, key: PRNGKeyArray
) -> TrainState:
    """A fresh state; pure, so that it can run under `jax.eval_shape` and under `jax.jit`."""
    encoder = config.model.encoder
    image = jnp.zeros((1, len(encoder.channels), encoder.crop, encoder.crop), jnp.float32)
    rngs = {"params": key, "mask": key, "drop_path": key}
    params = MAE(config.model).init(rngs, image)["params"]
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, skipped=zero, params=params, opt_state=transform.init(params))


def loss_of_crops(
    params: Any,
    pixels: Shaped[Array, "batch channels height width"],
    key: PRNGKeyArray,
    config: MAEConfig,
    *,
    train: bool,
    scale: float | None = None,
) -> tuple[Float[Array, ""], Scalars]:
    """L_MAE+ (Eq. 3) of raw crops, and its parts; masks and dropped paths are drawn from `key`.

    `scale` divides the pixels before they are self-standardised; None is their type's maximum.
    """
    mask_key, path_key = jax.random.split(key)
    images = self_standardize(pixels, scale)
    rngs = {"mask": mask_key, "drop_path": path_key}
    output: Any = MAE(config).apply({"params": params}, images, train=train, rngs=rngs)
    return mae_loss(output, config)


def reconstruct_crops(
    params: Any,
    pixels: Shaped[Array, "batch channels height width"],
    key: PRNGKeyArray,
    config: MAEConfig,
    count: int,
) -> tuple[
    Float[Array, "shown channels height width"],
    Float[Array, "shown channels height width"],
    Float[Array, "shown channels height width"],
]:
    """The first `count` crops masked, reconstructed and as they are, all self-standardised."""
    images = self_standardize(pixels[:count])
    found = reconstruct(MAE(config), params, images, rng=key)
    return found.masked, found.reconstruction, found.original


def train_step(
    config: TrainConfig, transform: optax.GradientTransformation, key: PRNGKeyArray
) -> StepFunction:
    """The step `(state, pixels) -> (state, scalars)` for a global batch of raw crops.

    All randomness comes from `key` and the step's number, so a run that is resumed draws the same
    masks. A step with a loss or gradient that is not finite leaves the parameters as they are and
    is counted.
    """
    parts = config.optimizer.accumulate

    def gradient(params: Any, pixels: Array, key: PRNGKeyArray) -> tuple[Any, Scalars]:
        def loss(params: Any) -> tuple[Array, Scalars]:
            return loss_of_crops(params, pixels, key, config.model, train=True)

        (total, scalars), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return grads, {"loss": total, **scalars}

    def step(state: TrainState, pixels: Array) -> tuple[TrainState, Scalars]:
        step_key = jax.random.fold_in(key, state.step)
        if parts == 1:
            grads, scalars = gradient(state.params, pixels, step_key)
        else:
            # Every parts-th crop goes to one micro-batch, so that no crop changes its device.
            split = pixels.reshape(-1, parts, *pixels.shape[1:]).swapaxes(0, 1)

            def add(carry: Any, part: tuple[Array, Array]) -> tuple[Any, None]:
                number, crops = part
                new = gradient(state.params, crops, jax.random.fold_in(step_key, number))
                return jax.tree.map(lambda a, b: a + b / parts, carry, new), None

            shapes = jax.eval_shape(gradient, state.params, split[0], step_key)
            zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
            (grads, scalars), _ = jax.lax.scan(add, zeros, (jnp.arange(parts), split))

        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(norm) & jnp.isfinite(scalars["loss"])
        changed = (optax.apply_updates(state.params, updates), opt_state)
        kept = (state.params, state.opt_state)
        params, opt_state = jax.tree.map(lambda a, b: jnp.where(good, a, b), changed, kept)
        scalars = {**scalars, "gradient_norm": norm}
        state = TrainState(
            step=state.step + 1,
            skipped=state.skipped + (~good).astype(jnp.int32),
            params=params,
            opt_state=opt_state,
        )
        return state, scalars

    return step
