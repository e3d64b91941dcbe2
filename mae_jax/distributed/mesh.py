"""Devices as a mesh, and which part of each array every device holds."""

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

# The batch is divided over both: an FSDP part of the parameters is not a copy of the work.
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over `devices`, by default all of them.

    Raises:
      InputError: the axes do not divide the devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    # Auto axes: linen's modules leave the placing of what they compute to the compiler.
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """The lengths of the axes (data, fsdp, tensor) for so many devices.

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
    """The first dimension divided over data and fsdp, the others whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def num_batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """How many parts the batch has."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, P())


def state_sharding(state: Any, mesh: Mesh | AbstractMesh, rules: Sequence[ShardingRule]) -> Any:
    """A sharding for every array of `state` (arrays or shapes).

    The first rule counts whose pattern is found in the array's path and which names no more
    dimensions than it has; the dimensions before those named stay whole. What no rule names is
    divided over fsdp along its largest dimension that divides. An optimiser's moments have the
    paths of their parameters at their end, so one rule serves both.

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
                whole = ("",) * (len(value.shape) - len(axes))
                return NamedSharding(mesh, _fitting(whole + axes, value.shape, mesh))
        return NamedSharding(mesh, _over_fsdp(value.shape, mesh))

    return jax.tree_util.tree_map_with_path(sharding, state)


def _fitting(axes: Sequence[str], shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    # An axis that does not divide its dimension (5 classes over 4 devices) leaves it whole.
    fits = [axis if axis and size % mesh.shape[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)]  # fmt: skip
    return P(*fits)


def _over_fsdp(shape: Sequence[int], mesh: Mesh | AbstractMesh) -> P:
    parts = mesh.shape["fsdp"]
    dividing = [i for i, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or len(shape) < 2 or not dividing:
        return P()
    largest = max(dividing, key=lambda i: shape[i])
    return P(*("fsdp" if i == largest else None for i in range(len(shape))))


def abstract_arrays(shapes: Any, shardings: Any) -> Any:
    """`shapes` with their places: arrays to come, for lowering a step or restoring a state."""
    return jax.tree.map(
        lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, shardings
    )


def to_global_array(arrays: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Global arrays from this host's part of a batch (numpy arrays, batch first)."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda a: jax.make_array_from_process_local_data(sharding, np.asarray(a)), arrays
    )
