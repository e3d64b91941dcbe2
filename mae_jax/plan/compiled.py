"""Compiles the real step for a mesh, without data and without arrays, and reads what it needs."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from mae_jax.models.flops import crop_flops
from mae_jax.train import mesh as meshes
from mae_jax.train.config import TrainConfig
from mae_jax.train.program import program

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Needs:
    """What one optimiser step needs.

    Attributes:
      parameters: of the whole model.
      devices: in the mesh.
      state_bytes: of the arguments (state and batch) on one device.
      working_bytes: of temporaries on one device, as the compiler laid them out.
      step_flops: model FLOPs of the global batch, forward and backward, over all devices.
      collectives: how often each kind stands in the compiled step (loops count once).
      batch: crops of one step.
      crops: crops that the whole run sees.
    """

    parameters: int
    devices: int
    state_bytes: int
    working_bytes: int
    step_flops: float
    collectives: dict[str, int]
    batch: int
    crops: int

    @property
    def device_bytes(self) -> int:
        """Memory that one device must have."""
        return self.state_bytes + self.working_bytes

    def fits(self, device_bytes: float) -> bool:
        """Whether a device of that memory holds it, with a tenth left for the runtime."""
        return self.device_bytes <= 0.9 * device_bytes

    def device_hours(self, peak_flops: float, utilisation: float) -> float:
        """Device-hours of the run at a share `utilisation` of a device's `peak_flops` a second."""
        whole = self.step_flops * self.crops / self.batch
        return whole / (peak_flops * utilisation) / 3600


def needs(config: TrainConfig, devices: Sequence[Any] | None = None) -> Needs:
    """Lowers and compiles the step of `config` for `devices`, by default those of this process.

    Nothing is allocated: the state and the batch are shapes with shardings. Memory is that of the
    platform compiled for, which lays temporaries out in its own way.

    Raises:
      InputError: the mesh or the batch does not fit the devices.
    """
    run = program(config, meshes.make_mesh(config.mesh, devices))
    compiled = run.step.lower(run.state, run.batch, None).compile()
    memory: Any = compiled.memory_analysis()
    found = Counter(
        re.findall(rf"= \S+ ({'|'.join(COLLECTIVES)})(?:-start)?\(", compiled.as_text() or "")
    )
    return Needs(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(run.state.params)),
        devices=run.mesh.size,
        state_bytes=memory.argument_size_in_bytes,
        working_bytes=memory.temp_size_in_bytes,
        step_flops=crop_flops(config.model) * config.data.batch,
        collectives=dict(found),
        batch=config.data.batch,
        crops=config.steps * config.data.batch,
    )
