"""What a step needs on GPUs, by formula: no compiler for them runs without one."""

import math
from typing import Any

import jax
import numpy as np
from jax.extend import core

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import Slice
from mae_jax.networks.tasks import task_of
from mae_jax.planning.compile_cost import Needs, parameter_count
from mae_jax.planning.hlo_traffic import Collective, Moved
from mae_jax.planning.step_flops import executed_flops, with_attention
from mae_jax.train.compiled import CompiledFns, build
from mae_jax.train.config import TrainConfig


def needs_by_formula(config: TrainConfig, slice_: Slice) -> Needs:
    """The needs of `config` on a slice whose compiler is not at hand.

    State and batch are exact: their shapes and places are those of the run. Activations are
    what the trace of one device's micro-batch keeps for its backward pass, with an attention
    that keeps what flash attention does; then the gradients, and their sum where there are
    several micro-batches. The collectives are those of the mesh: gradients over the copies of a
    parameter; parameters twice (forward and backward) over its FSDP parts. Tensor parallelism
    adds two sums of activations a block and direction, which are left out, as is what the
    compiler keeps for its own convenience.

    Raises:
      InputError: the mesh or the batch does not fit the devices.
    """
    # A mesh of names alone: nothing is placed, so one device may stand for all.
    mesh = jax.sharding.AbstractMesh(meshes.mesh_shape(config.mesh, slice_.devices), meshes.AXES)
    run = build(config, mesh)
    state = _device_bytes(run.state)
    batch = _device_bytes(run.batch)
    parameters = _device_bytes(run.state.params)
    several = config.optimizer.grad_accum_steps > 1
    ways = math.prod(mesh.shape[axis] for axis in meshes.BATCH_AXES)
    crops = max(1, config.data.batch // config.optimizer.grad_accum_steps // ways)
    kept = kept_bytes(config, crops)
    model, executed = executed_flops(task_of(config.model))
    # Activations are written once and read twice (forward and backward); of the state, weights
    # are read in both, gradients written, and weights and moments read and written anew.
    micro = config.optimizer.grad_accum_steps
    memory = 3.0 * kept * micro + 3.0 * parameters * micro + 2.0 * state
    return Needs(
        parameters=parameter_count(run),
        devices=slice_.devices,
        state_bytes=state + batch,
        working_bytes=kept + parameters * (2 if several else 1),
        model_flops=model * config.data.batch,
        executed_flops=executed * config.data.batch,
        moved=Moved(memory, _collectives(run, config, mesh)),
        batch=config.data.batch,
        crops=config.steps * config.data.batch,
        source="formula",
    )


def kept_bytes(config: TrainConfig, crops: int) -> int:
    """Bytes of what the backward pass of so many crops needs from the forward pass.

    Read off the trace of the step's own loss: what it returns for the backward pass and was not
    given to it (the parameters, which count as state).
    """
    task = task_of(with_attention(config.model, "chunked"))
    params, model_state = jax.eval_shape(task.init, jax.random.key(0))

    def forward(params: Any, model_state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            return task.loss(params, model_state, batch, jax.random.key(0), train=True)[0]

        return jax.vjp(loss, params)[1]

    jaxpr = jax.make_jaxpr(forward)(params, model_state, task.batch(crops)).jaxpr
    given = set(map(id, jaxpr.invars))
    kept: dict[int, Any] = {
        id(v): v.aval for v in jaxpr.outvars if isinstance(v, core.Var) and id(v) not in given
    }
    return sum(math.prod(a.shape) * _item_bytes(a.dtype) for a in kept.values())


def _item_bytes(dtype: Any) -> int:
    # Keys of random numbers have a type that numpy does not know; they are a few bytes.
    return 0 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else np.dtype(dtype).itemsize


def _device_bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * _item_bytes(leaf.dtype)
        for leaf in jax.tree.leaves(tree)
    )


def _collectives(run: CompiledFns, config: TrainConfig, mesh: Any) -> tuple[Collective, ...]:
    micro = config.optimizer.grad_accum_steps
    copies = mesh.shape["data"] * mesh.shape["fsdp"]
    divided = whole = 0
    for leaf in jax.tree.leaves(run.state.params):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        size //= math.prod(mesh.shape[a] for a in _axes(leaf.sharding.spec) if a == "tensor")
        if "fsdp" in _axes(leaf.sharding.spec):
            divided += size
        else:
            whole += size
    found = [Collective("all-reduce", whole, copies, micro)] if whole else []
    if divided and mesh.shape["fsdp"] > 1:
        # Weights travel in the type they are computed in.
        half = divided // 2 if _computes_in_half(config.model) else divided
        found += [
            Collective("all-gather", half, mesh.shape["fsdp"], 2 * micro),
            Collective("reduce-scatter", divided, mesh.shape["fsdp"], micro),
            Collective("all-reduce", divided // mesh.shape["fsdp"], mesh.shape["data"], micro),
        ]
    return tuple(one for one in found if one.group > 1)


def _axes(spec: Any) -> list[str]:
    found: list[str] = []
    for part in spec:
        found += [part] if isinstance(part, str) else list(part or ())
    return found


def _computes_in_half(model: Any) -> bool:
    return getattr(getattr(model, "encoder", model), "dtype", "") == "bfloat16"
