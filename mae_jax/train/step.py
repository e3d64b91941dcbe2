"""One optimizer step, and the train state."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from mae_jax.networks.registry import make_task
from mae_jax.networks.task import Batch, Scalars
from mae_jax.train.config import TrainConfig
from mae_jax.train.divergence import check_step, initial_divergence
from mae_jax.train.optimizer import evaluated_params

StepFunction = Callable[..., tuple["TrainState", Scalars]]


class TrainState(flax.struct.PyTreeNode):
    """All that a step changes, as it is saved and restored (or its shapes or shardings).

    Attributes:
      step: optimizer steps done.
      params, opt_state: nested dicts of float32 arrays, and the optimizer's state.
      model_state: running statistics of the network; {} if it has none.
      ema: the average of the parameters that is evaluated and saved: an exponential moving one, or
        that of schedule-free AdamW; None without.
      divergence: statistics of the losses and the skipped steps.
    """

    # Any: pytrees of arrays, of shapes or of shardings.
    step: Any
    params: PyTree
    opt_state: PyTree
    model_state: PyTree
    ema: Any
    divergence: Any

    @property
    def weights(self) -> PyTree:
        """The parameters to evaluate and to save: their moving average, if there is one."""
        return self.params if self.ema is None else self.ema


def initial_state(
    config: TrainConfig, transform: optax.GradientTransformation, key: PRNGKeyArray
) -> TrainState:
    """The state before the first step; pure, for `jax.eval_shape` and `jax.jit`."""
    params, model_state = make_task(config.model, config.data.crop).init(key)
    averaged = config.optimizer.ema_decay or config.optimizer.name == "schedule-free-adamw"
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=transform.init(params),
        model_state=model_state,
        # A copy: the state's buffers are donated, and none may be donated twice.
        ema=jax.tree.map(jnp.copy, params) if averaged else None,
        divergence=initial_divergence(config.divergence),
    )


def train_step(
    config: TrainConfig,
    transform: optax.GradientTransformation,
    key: PRNGKeyArray,
    shardings: Any = None,
) -> StepFunction:
    """The step `(state, batch, channels=None) -> (state, scalars)` for a global batch.

    `channels` is static: those of the network's channels that the crops hold; None for all.
    `shardings` are those of the parameters, to which their gradients are constrained.

    All randomness follows from `key` and the step, so a run that resumes draws the same masks. A
    step that `divergence.check_step` rejects changes nothing and is counted.
    """
    task = make_task(config.model, config.data.crop, scale=config.data.scale, eps=config.data.eps)
    num_micro, decay = config.optimizer.grad_accum_steps, config.optimizer.ema_decay

    def gradient(
        params: PyTree, model_state: PyTree, batch: Batch, key: PRNGKeyArray, channels: Any
    ) -> tuple[tuple[Any, Scalars], Any]:
        def loss(params: PyTree) -> tuple[Any, tuple[Scalars, PyTree]]:
            total, (scalars, changed) = task.loss(
                params, model_state, batch, key, train=True, channels=channels
            )
            return total, ({"loss": total, **scalars}, changed)

        grads, (scalars, changed) = jax.grad(loss, has_aux=True)(params)
        if shardings is not None:
            grads = jax.lax.with_sharding_constraint(grads, shardings)
        return (grads, scalars), changed

    def accumulated(
        state: TrainState, batch: Batch, key: PRNGKeyArray, channels: Any
    ) -> tuple[tuple[Any, Scalars], Any]:
        # A micro-batch takes every num_micro-th crop, so that no crop changes its device.
        split = jax.tree.map(lambda a: a.reshape(-1, num_micro, *a.shape[1:]).swapaxes(0, 1), batch)

        def add(carry: Any, micro_batch: Any) -> tuple[Any, None]:
            (total, model_state), (number, crops) = carry, micro_batch
            new, model_state = gradient(
                state.params, model_state, crops, jax.random.fold_in(key, number), channels
            )
            total = jax.tree.map(lambda a, b: a + b / num_micro, total, new)
            return (total, model_state), None

        first = jax.tree.map(lambda a: a[0], split)
        shapes, _ = jax.eval_shape(
            lambda: gradient(state.params, state.model_state, first, key, channels)
        )
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        carry = (zeros, state.model_state)
        return jax.lax.scan(add, carry, (jnp.arange(num_micro), split))[0]

    def step(
        state: TrainState, batch: Batch, channels: Sequence[str] | None = None
    ) -> tuple[TrainState, Scalars]:
        step_key = jax.random.fold_in(key, state.step)
        if num_micro == 1:
            (grads, scalars), model_state = gradient(
                state.params, state.model_state, batch, step_key, channels
            )
        else:
            (grads, scalars), model_state = accumulated(state, batch, step_key, channels)

        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        mask = task.update_mask(state.params, channels)
        if mask is not None:
            params = jax.tree.map(jnp.where, mask, params, state.params)
            moments = optax.tree.map_params(
                transform, lambda _, leaf_mask: leaf_mask, opt_state, mask,
                transform_non_params=lambda _: True,
            )  # fmt: skip
            opt_state = jax.tree.map(jnp.where, moments, opt_state, state.opt_state)
        ema = evaluated_params(config.optimizer, opt_state, params)
        if decay:
            ema = moving_average(state.ema, params, decay, state.step)
        norm = optax.tree.norm(grads)
        good, divergence = check_step(
            state.divergence, state.step, scalars["loss"], norm, config.divergence
        )
        changed = state.replace(
            params=params, opt_state=opt_state, model_state=model_state, ema=ema
        )
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), changed, state)
        scalars |= {
            "gradient_norm": norm,
            "skipped": divergence.num_skipped,
            "rollback_step": divergence.rollback_step,
        }
        return state.replace(step=state.step + 1, divergence=divergence), scalars

    return step


def moving_average(mean: PyTree, params: PyTree, decay: float, step: Int[Array, ""]) -> PyTree:
    """The moving average of the parameters after one more step; its decay warms up."""
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda m, p: keep * m + (1 - keep) * p, mean, params)
