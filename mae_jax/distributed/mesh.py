"""The device mesh, and the shardings of batches and train states."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mae_jax.config import nearest
from mae_jax.distributed.config import AXES, MeshConfig, ShardingRule
from mae_jax.errors import InputError

# The batch is sharded over both: FSDP shards the parameters and the work.
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over `devices`, by default all of them.

    Raises:
      InputError: the axes do not divide the devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    # Auto axes: linen's modules leave the sharding of intermediates to the compiler.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """The sizes of the axes (data, fsdp, tensor) for a number of devices.

    Raises:
      InputError: the axes do not divide the devices.
    """
    others = config.fsdp * config.tensor
    data = devices // others if config.data == -1 else config.data
    if data * others != devices or data < 1:
        raise InputError(
            f"mesh data={config.data} × fsdp={config.fsdp} × tensor={config.tensor} does not "
            f"fit {devices} devices; the product must be their number."
        )
    return data, config.fsdp, config.tensor


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The first dimension sharded over data and fsdp, the others replicated."""
    return NamedSharding(mesh, P(BATCH_AXES))


def num_batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """The number of shards of a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A full copy on every device."""
    return NamedSharding(mesh, P())


def state_sharding(state: Any, mesh: Mesh | AbstractMesh, rules: Sequence[ShardingRule]) -> Any:
    """A sharding for every array of `state` (arrays or shapes).

    The first rule applies whose pattern matches in the array's path and which names no more
    dimensions than it has; the dimensions before those named are replicated. An array without a
    rule is sharded over fsdp along its largest dimension that is divisible. The paths of an
    optimizer's moments end with those of their parameters, so one rule serves both.

    Raises:
      InputError: a rule names an axis that the mesh does not have.
    """
    for pattern, axes in rules:
        for axis in axes:
            if axis and axis not in AXES:
                raise InputError(
                    f"the mesh rule '{pattern}' names the axis '{axis}': {nearest(axis, AXES)}"
                )
    compiled = [(re.compile(pattern), axes) for pattern, axes in rules]

    def sharding(path: tuple[Any, ...], value: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, axes in compiled:
            if pattern.search(name) and len(axes) <= len(value.shape):
                unsharded = ("",) * (len(value.shape) - len(axes))
                return NamedSharding(mesh, _divisible(unsharded + axes, value.shape, mesh))
        return NamedSharding(mesh, _over_fsdp(value.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _divisible(axes: Sequence[str], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    # A dimension that is not divisible (5 classes over 4 devices) is replicated.
    fits = [axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)]  # fmt: skip
    return P(*fits)


def _over_fsdp(shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    num_shards = mesh.shape["fsdp"]
    divisible = [i for i, size in enumerate(shape) if size % num_shards == 0]
    if num_shards == 1 or len(shape) < 2 or not divisible:
        return P()
    largest = max(divisible, key=lambda i: shape[i])
    return P(*("fsdp" if i == largest else None for i in range(len(shape))))


def abstract_arrays(shapes: Any, shardings: Any) -> Any:
    """`shapes` with `shardings`: for lowering a step, or restoring a state into."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def to_global_array(arrays: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Global arrays from this host's shard of a batch (numpy arrays, batch first)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), arrays
    )
