"""Compiles the real step for a mesh, without data and without arrays, and reads what it needs."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import Slice
from mae_jax.errors import InputError
from mae_jax.networks.tasks import task_of
from mae_jax.planning.hlo_traffic import Moved, moved
from mae_jax.planning.step_flops import executed_flops
from mae_jax.train.compiled import CompiledFns, build
from mae_jax.train.config import TrainConfig


@dataclass(frozen=True)
class Needs:
    """What one optimiser step needs.

    Attributes:
      parameters: of the whole model.
      devices: in the mesh.
      state_bytes: of the arguments (state and batch) on one device.
      working_bytes: of all else that one device holds at once.
      model_flops: of the global batch, forward and backward, over all devices.
      executed_flops: these and what rematerialisation computes again.
      moved: bytes between memory and chip, and between devices, in a step.
      batch: crops of one step.
      crops: crops that the whole run sees.
      source: "compiled" for this platform, or "formula".
    """

    parameters: int
    devices: int
    state_bytes: int
    working_bytes: int
    model_flops: float
    executed_flops: float
    moved: Moved
    batch: int
    crops: int
    source: str = "compiled"

    @property
    def device_bytes(self) -> int:
        """Memory that one device must have."""
        return self.state_bytes + self.working_bytes


class DoesNotFit(Exception):
    """The compiler found no way to lay the step out in a device's memory.

    Attributes:
      needed: bytes that it asked for, where it said so.
    """

    def __init__(self, needed: float | None) -> None:
        super().__init__("the step does not fit a device's memory")
        self.needed = needed


def needs(config: TrainConfig, devices: Sequence[Any] | None = None) -> Needs:
    """Lowers and compiles the step of `config` for `devices`, by default those of this process.

    Nothing is allocated: the state and the batch are shapes with shardings. Memory is that of the
    platform compiled for, which lays temporaries out in its own way.

    Raises:
      InputError: the mesh or the batch does not fit the devices.
      DoesNotFit: the step needs more memory than a device has.
    """
    run = build(config, meshes.make_mesh(config.mesh, devices))
    lowered = run.step.lower(run.state, run.batch, None)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as problem:
        if "RESOURCE_EXHAUSTED" not in str(problem):
            raise
        raise DoesNotFit(_asked(str(problem))) from None
    memory: Any = compiled.memory_analysis()
    arguments = memory.argument_size_in_bytes
    # What is returned in the place of an argument needs no room of its own.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    model, executed = executed_flops(task_of(config.model))
    return Needs(
        parameters=parameter_count(run),
        devices=run.mesh.size,
        state_bytes=arguments,
        working_bytes=memory.temp_size_in_bytes + results + memory.generated_code_size_in_bytes,
        model_flops=model * config.data.batch,
        executed_flops=executed * config.data.batch,
        moved=moved(compiled.as_text() or "", run.mesh.size),
        batch=config.data.batch,
        crops=config.steps * config.data.batch,
    )


def parameter_count(run: CompiledFns) -> int:
    """Parameters of the whole model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(run.state.params))


def tpu_devices(slice_: Slice) -> Sequence[Any]:
    """The devices of a TPU slice that is not there, to compile for.

    Raises:
      InputError: libtpu, which holds the compiler, is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "compiling for TPUs needs libtpu; install it with pip install 'mae_jax[plan]'."
        )
    # libtpu asks a server of Google's cloud what machine it is on, and locks the machine's TPU;
    # here there is neither.
    name = slice_.name.lower()
    given = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": name.replace("v5e", "v5litepod"),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }
    for key, value in given.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    # libtpu takes it that a host has four chips; in the smallest slices it has fewer.
    fewer = {}
    if slice_.devices < 4:
        fewer["chips_per_host_bounds"] = (*slice_.shape, 1, 1)[:3]
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=slice_.topology, **fewer
        ).devices
    except jax.errors.JaxRuntimeError as problem:
        reason = str(problem).splitlines()[0]
        raise InputError(f"libtpu cannot compile for {slice_.name}: {reason}") from None


def _asked(message: str) -> float | None:
    """The memory that a compiler's message says it needed."""
    found = re.search(r"temporaries \(([\d.]+)([KMG])\)|needs? ([\d.]+)([KMG])", message)
    found = found or re.search(r"Used ([\d.]+)([KMG]) of", message)
    if not found:
        return None
    number, unit = [part for part in found.groups() if part]
    return float(number) * 2.0 ** {"K": 10, "M": 20, "G": 30}[unit]
