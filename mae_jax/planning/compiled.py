"""The cost of a step from the compiler: the real step, lowered for a mesh without arrays."""

import importlib.util
import os
import re
from collections.abc import Sequence

import jax

from mae_jax.distributed import mesh as meshes
from mae_jax.distributed.hardware import Slice
from mae_jax.errors import InputError
from mae_jax.planning.hlo_traffic import read_traffic
from mae_jax.planning.step_cost import DoesNotFit, StepCost, parameter_count
from mae_jax.planning.step_flops import executed_flops
from mae_jax.train.compiled import build
from mae_jax.train.config import TrainConfig


def compile_cost(config: TrainConfig, devices: Sequence[jax.Device] | None = None) -> StepCost:
    """Lowers and compiles the step of `config` for `devices`, by default those of this process.

    Nothing is allocated: the state and the batch are shapes with shardings. Memory is that of the
    platform compiled for, which lays temporaries out in its own way.

    Raises:
      InputError: the mesh or the batch does not fit the devices.
      DoesNotFit: the step needs more memory than a device has.
    """
    functions = build(config, meshes.make_mesh(config.mesh, devices))
    lowered = functions.step.lower(functions.state, functions.batch, None)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(_required_bytes(str(error))) from None
    memory = compiled.memory_analysis()
    # Results that reuse the buffer of a donated argument need no memory of their own.
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    model, executed = executed_flops(functions.task)
    return StepCost(
        parameters=parameter_count(functions),
        devices=functions.mesh.size,
        state_bytes=memory.argument_size_in_bytes,
        working_bytes=memory.temp_size_in_bytes + results + memory.generated_code_size_in_bytes,
        model_flops=model * config.data.batch,
        executed_flops=executed * config.data.batch,
        traffic=read_traffic(compiled.as_text() or "", functions.mesh.size),
        batch=config.data.batch,
        crops=config.steps * config.data.batch,
    )


def tpu_devices(slice_: Slice) -> Sequence[jax.Device]:
    """The devices of an absent TPU slice, to compile for.

    Raises:
      InputError: libtpu, which holds the compiler, is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu is not installed, and compiles for TPUs; run pip install 'mae_jax[plan]'."
        )
    # Without these, libtpu queries Google's metadata server and locks the machine's TPU; a machine
    # that only compiles has neither.
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": slice_.name.lower().replace("v5e", "v5litepod"),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",
    }
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    # libtpu assumes four chips per host; the smallest slices have fewer.
    bounds = {}
    if slice_.chips < 4:
        bounds["chips_per_host_bounds"] = (*slice_.shape, 1, 1)[:3]
    name = f"{slice_.accelerator.name}:{slice_.topology}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **bounds).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{slice_.name}: libtpu cannot compile for it ({reason})") from None


def _required_bytes(message: str) -> float | None:
    """Bytes of memory that the step needs, from the compiler's message."""
    match = re.search(r"temporaries \(([\d.]+)([KMG])\)|needs? ([\d.]+)([KMG])", message)
    match = match or re.search(r"Used ([\d.]+)([KMG]) of", message)
    if not match:
        return None
    number, unit = [group for group in match.groups() if group]
    return float(number) * 2.0 ** {"K": 10, "M": 20, "G": 30}[unit]
