"""The cost of one optimizer step: memory, FLOPs and traffic."""

import math
from dataclasses import dataclass
from typing import Literal

import jax

from mae_jax.planning.hlo_traffic import Traffic
from mae_jax.train.compiled import CompiledFns


@dataclass(frozen=True)
class StepCost:
    """Memory, FLOPs and traffic of one optimizer step.

    Attributes:
      parameters: of the whole model.
      devices: in the mesh.
      state_bytes: arguments of the step (state and batch) on one device.
      working_bytes: all else that one device holds at once.
      model_flops: FLOPs of the global batch, forward and backward, over all devices.
      executed_flops: the same with what rematerialization repeats.
      traffic: bytes between memory and chip, and between devices, per device.
      batch: crops per step.
      crops: crops of the whole run.
      source: "compiled" for this platform, or "formula".
    """

    parameters: int
    devices: int
    state_bytes: int
    working_bytes: int
    model_flops: float
    executed_flops: float
    traffic: Traffic
    batch: int
    crops: int
    source: Literal["compiled", "formula"] = "compiled"

    @property
    def device_bytes(self) -> int:
        """Memory that one device must have."""
        return self.state_bytes + self.working_bytes


class DoesNotFit(Exception):
    """The compiler found no layout of the step in a device's memory.

    Attributes:
      required_bytes: bytes that the compiler asked for, where its message names them.
    """

    def __init__(self, required_bytes: float | None) -> None:
        super().__init__("the step does not fit a device's memory")
        self.required_bytes = required_bytes


def parameter_count(functions: CompiledFns) -> int:
    """Parameters of the whole model."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(functions.state.params))
