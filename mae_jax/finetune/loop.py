"""A compiled training loop for fine-tuning."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PyTree


def fit(
    loss: Callable[..., Float[Array, ""]],
    params: PyTree[jax.Array],
    batches: Iterable[tuple[Any, ...]],
    optimizer: optax.GradientTransformation,
) -> tuple[PyTree[jax.Array], list[float]]:
    """Train for one pass over `batches` with a compiled step.

    Args:
      loss: called as `loss(params, *batch)`.

    Returns:
      The trained parameters and the loss of every step.
    """

    @jax.jit
    def step(
        params: optax.Params, state: optax.OptState, batch: tuple[Any, ...]
    ) -> tuple[optax.Params, optax.OptState, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    losses = []
    for batch in batches:
        params, state, value = step(params, state, batch)
        losses.append(value)
    return params, [float(value) for value in losses]
