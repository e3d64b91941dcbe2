"""The cost of a step on GPUs by formula, since no GPU compiler runs without a GPU."""

import math

import jax

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import Slice
from mae_jax.planning.hlo_traffic import Collective, Traffic
from mae_jax.planning.step_cost import StepCost, parameter_count
from mae_jax.planning.step_flops import executed_flops
from mae_jax.train.accumulation import device_bytes, residual_bytes
from mae_jax.train.compiled import CompiledFns, build
from mae_jax.train.config import TrainConfig


def formula_cost(config: TrainConfig, slice_: Slice) -> StepCost:
    """The cost of a step of `config` on a slice without a compiler.

    State and batch are exact: their shapes and shardings are those of the run. Activations are the
    residuals that the trace of one device's micro-batch keeps for its backward pass, with an
    attention that keeps what flash attention keeps; then the gradients, and their sum where there
    are several micro-batches. The collectives are those of the mesh: gradients over the replicas
    of a parameter; parameters twice (forward and backward) over their FSDP shards. Not counted:
    the two sums of activations per block and direction of tensor parallelism, and the compiler's
    own scratch memory.

    Raises:
      InputError: the mesh or the batch does not fit the devices.
    """
    # An abstract mesh: nothing is allocated, so no device is needed.
    mesh = jax.sharding.AbstractMesh(meshes.mesh_shape(config.mesh, slice_.devices), meshes.AXES)
    functions = build(config, mesh)
    state = device_bytes(functions.state)
    parameters = device_bytes(functions.state.params)
    num_micro = config.optimizer.grad_accum_steps
    crops = max(1, config.data.batch // num_micro // meshes.num_batch_shards(mesh))
    residuals = residual_bytes(config, crops)
    model, executed = executed_flops(functions.task)
    # Activations are written once and read twice (forward and backward). Of the state, weights are
    # read in both passes, gradients written, weights and moments read and written.
    memory = 3.0 * residuals * num_micro + 3.0 * parameters * num_micro + 2.0 * state
    return StepCost(
        parameters=parameter_count(functions),
        devices=slice_.devices,
        state_bytes=state + device_bytes(functions.batch),
        working_bytes=residuals + parameters * (2 if num_micro > 1 else 1),
        model_flops=model * config.data.batch,
        executed_flops=executed * config.data.batch,
        traffic=Traffic(memory, _collectives(functions, config, mesh)),
        batch=config.data.batch,
        crops=config.steps * config.data.batch,
        source="formula",
    )


def _collectives(
    functions: CompiledFns, config: TrainConfig, mesh: jax.sharding.AbstractMesh
) -> tuple[Collective, ...]:
    num_micro = config.optimizer.grad_accum_steps
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    sharded = replicated = 0
    for leaf in jax.tree.leaves(functions.state.params):
        axes = [axis for axis in _axes(leaf.sharding.spec) if mesh.shape[axis] > 1]
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        size //= mesh.shape["tensor"] if "tensor" in axes else 1
        if "fsdp" in axes:
            sharded += size
        else:
            replicated += size
    collectives = []
    if replicated:
        collectives.append(Collective("all-reduce", replicated, data * fsdp, num_micro))
    if sharded:
        # Weights are gathered in the compute dtype.
        gathered = sharded // 2 if _compute_dtype(config.model) == "bfloat16" else sharded
        collectives += [
            Collective("all-gather", gathered, fsdp, 2 * num_micro),
            Collective("reduce-scatter", sharded, fsdp, num_micro),
            Collective("all-reduce", sharded // fsdp, data, num_micro),
        ]
    return tuple(collective for collective in collectives if collective.group > 1)


def _axes(spec: jax.sharding.PartitionSpec) -> list[str]:
    """All mesh axes that a partition spec names."""
    axes: list[str] = []
    for entry in spec:
        axes += [entry] if isinstance(entry, str) else list(entry or ())
    return axes


def _compute_dtype(model: object) -> str:
    return getattr(getattr(model, "encoder", model), "dtype", "float32")
