"""FLOPs of a training step: the model's own, and those that are executed."""

import dataclasses
from typing import Any

import jax

from mae_jax.networks.flops import crop_flops, traced_flops
from mae_jax.networks.mae import MAEConfig
from mae_jax.networks.tasks import Task, task_of
from mae_jax.networks.vit.model import ViTConfig


def executed_flops(task: Task) -> tuple[float, float]:
    """(model FLOPs, executed FLOPs) of one crop in a training step.

    Model FLOPs are three times the forward pass's. Executed FLOPs count every product in the trace
    of the step, with those that rematerialization repeats and those of the loss.
    """
    model = crop_flops(task.model, crop=task.crop)
    countable = task_of(with_attention(task.model, "xla"))
    key = jax.random.key(0)
    params, state = jax.eval_shape(countable.init, key)

    def loss(params: Any, batch: Any) -> Any:
        return countable.loss(params, state_of(state), batch, key, train=True)[0]

    def state_of(shapes: Any) -> Any:
        return jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)

    count = 16 if state else 1  # ghost batch norms split a batch
    traced = traced_flops(jax.grad(loss), params, countable.batch(count)) / count
    return model, max(traced, model)


def with_attention(model: Any, backend: str) -> Any:
    """The network config with another attention backend."""
    if isinstance(model, MAEConfig):
        encoder = dataclasses.replace(model.encoder, attention=backend)  # type: ignore[arg-type]
        return dataclasses.replace(model, encoder=encoder)
    if isinstance(model, ViTConfig):
        return dataclasses.replace(model, attention=backend)  # type: ignore[arg-type]
    return model
