"""FLOPs of a training step: the model's own, and those that are executed."""

import dataclasses
from typing import Any

import jax
from jaxtyping import PyTree

from mae_jax.networks.flops import traced_flops
from mae_jax.networks.tasks import Task, task_of


def executed_flops(task: Task) -> tuple[float, float]:
    """(model FLOPs, executed FLOPs) of one crop in a training step.

    Model FLOPs are three times the forward pass's. Executed FLOPs count every product in the trace
    of the step, with those that rematerialization repeats and those of the loss.
    """
    model = task.flops
    countable = task_of(with_attention(task.model, "xla"), task.crop)
    key = jax.random.key(0)
    params, state = jax.eval_shape(countable.init, key)

    def loss(params: PyTree, batch: PyTree) -> jax.Array:
        return countable.loss(params, state_of(state), batch, key, train=True)[0]

    def state_of(shapes: PyTree) -> PyTree:
        return jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)

    count = 16 if state else 1  # ghost batch norms split a batch
    traced = traced_flops(jax.grad(loss), params, countable.batch(count)) / count
    return model, max(traced, model)


def with_attention(model: Any, backend: str) -> Any:
    """The network config with another attention backend, wherever it or a part of it has one."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name == "attention":
            changes["attention"] = backend
        elif dataclasses.is_dataclass(value):
            changes[field.name] = with_attention(value, backend)
    return dataclasses.replace(model, **changes)
