"""FLOPs of a training step: the model's own, and those that are executed."""

import jax
from jaxtyping import PyTree

from mae_jax.config_keys import with_key
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.registry import make_task
from mae_jax.networks.task import Task


def executed_flops(task: Task) -> tuple[float, float]:
    """(model FLOPs, executed FLOPs) of one crop in a training step.

    Model FLOPs are three times the forward pass's. Executed FLOPs count every product in the trace
    of the step, with those that rematerialization repeats and those of the loss.
    """
    model = task.flops
    countable = make_task(with_key(task.model, "attention", "xla"), task.crop)
    key = jax.random.key(0)
    params, state = jax.eval_shape(countable.init, key)

    def loss(params: PyTree, batch: PyTree) -> jax.Array:
        return countable.loss(params, state_of(state), batch, key, train=True)[0]

    def state_of(shapes: PyTree) -> PyTree:
        return jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)

    count = 16 if state else 1  # ghost batch norms split a batch
    traced = traced_flops(jax.grad(loss), params, countable.batch(count)) / count
    return model, max(traced, model)
