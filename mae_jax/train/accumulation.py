"""Micro-batches that fit the devices' memory, for `optimizer.grad_accum_steps` of 0."""

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import PyTree

from mae_jax.config import from_saved
from mae_jax.config_keys import with_key
from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import device_memory
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.registry import make_task
from mae_jax.train.compiled import build
from mae_jax.train.config import TrainConfig

log = logging.getLogger(__name__)

# Of the memory that the formula counts, on top: the compiler's own scratch and layouts.
_MARGIN = 1.25


def resolve_accumulation(config: TrainConfig, mesh: Mesh, workdir: Path) -> TrainConfig:
    """Return the config with the fewest micro-batches that fit the devices, where it says 0.

    A run that is resumed keeps the number in its work folder.

    Raises:
      InputError: not even micro-batches of one crop per device fit.
    """
    if config.optimizer.grad_accum_steps:
        return config
    run = workdir / "config.json"
    if run.exists():
        saved = from_saved(TrainConfig, read_json(run), str(run))
        return _with_accumulation(config, saved.optimizer.grad_accum_steps)
    device = mesh.devices.flat[0]
    fitted = fit_accumulation(config, mesh, usable_memory(device))
    log.warning(
        "optimizer.grad_accum_steps is %d: micro-batches of %d crops on %d devices (%s).",
        fitted.optimizer.grad_accum_steps,
        config.data.batch // fitted.optimizer.grad_accum_steps,
        mesh.size, device.device_kind,
    )  # fmt: skip
    return fitted


def fit_accumulation(config: TrainConfig, mesh: Mesh | AbstractMesh, memory: float) -> TrainConfig:
    """Return the config with the fewest micro-batches with which a step fits `memory`.

    Counted are the state, the gradients (twice where they are summed) and what the forward pass
    keeps for the backward pass (`residual_bytes`, a line in the number of crops), times 1.25.

    Args:
      memory: bytes of one device.

    Raises:
      InputError: not even micro-batches of one crop per device fit.
    """
    shards, batch = meshes.num_batch_shards(mesh), config.data.batch
    if batch % shards:
        raise InputError(
            f"a batch of {batch} crops (data.batch) does not divide among the {shards} devices of "
            "the mesh's data and fsdp axes; choose a multiple."
        )
    functions = build(_with_accumulation(config, 1), mesh)
    state, parameters = device_bytes(functions.state), device_bytes(functions.state.params)
    one, two = residual_bytes(config, 1), residual_bytes(config, 2)
    needed = 0.0
    for count in (n for n in range(1, batch // shards + 1) if (batch // shards) % n == 0):
        crops = batch // shards // count
        residuals = one + (crops - 1) * (two - one)
        needed = _MARGIN * (state + residuals + parameters * (2 if count > 1 else 1))
        if needed <= memory:
            return _with_accumulation(config, count)
    raise InputError(
        f"one crop per device takes about {needed / 2**30:.1f} GiB, and a device has "
        f"{memory / 2**30:.1f}; take a smaller network or shard it (mesh.fsdp)."
    )


def usable_memory(device: jax.Device) -> float:
    """Bytes of a device that programs can use: as it says, by the hardware table, or of the host.

    Devices that are a host's processors share half of its memory.
    """
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and stats.get("bytes_limit"):
        return float(stats["bytes_limit"])
    known = device_memory(device.device_kind)
    if known is not None:
        return known
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return host / 2 / jax.local_device_count(device.platform)


def residual_bytes(config: TrainConfig, crops: int) -> int:
    """Bytes that the forward pass of `crops` crops keeps for the backward pass.

    Read off the trace of the step's own loss: the outputs for the backward pass that are not
    inputs (the parameters, which count as state).
    """
    task = make_task(with_key(config.model, "attention", "chunked"), config.data.crop)
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))

    def forward(params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        def loss(params: PyTree) -> jax.Array:
            return task.loss(params, model_state, batch, jax.random.key(0), train=True)[0]

        return jax.vjp(loss, params)[1]

    jaxpr = jax.make_jaxpr(forward)(params, model_state, task.batch(crops)).jaxpr
    inputs = set(map(id, jaxpr.invars))
    residuals: dict[int, Any] = {
        id(v): v.aval for v in jaxpr.outvars if isinstance(v, core.Var) and id(v) not in inputs
    }
    return sum(math.prod(a.shape) * _item_bytes(a.dtype) for a in residuals.values())


def device_bytes(tree: PyTree) -> int:
    """Bytes of one device's part of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _item_bytes(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _item_bytes(dtype: jax.typing.DTypeLike) -> int:
    # Random keys have a dtype that numpy does not know; they take a few bytes.
    return 0 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize


def _with_accumulation(config: TrainConfig, count: int) -> TrainConfig:
    optimizer = dataclasses.replace(config.optimizer, grad_accum_steps=count)
    return dataclasses.replace(config, optimizer=optimizer)
