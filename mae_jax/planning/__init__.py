"""Memory and time of a run before it runs: the real step, compiled for absent hardware."""

from mae_jax.distributed.hardware import ACCELERATORS, Slice, parse_slice
from mae_jax.planning.compiled import compile_cost, tpu_devices
from mae_jax.planning.formula import formula_cost
from mae_jax.planning.roofline import Estimate, estimate
from mae_jax.planning.run_estimate import estimate_run
from mae_jax.planning.step_cost import DoesNotFit, StepCost

__all__ = [
    "ACCELERATORS",
    "DoesNotFit",
    "Estimate",
    "Slice",
    "StepCost",
    "compile_cost",
    "estimate",
    "estimate_run",
    "formula_cost",
    "parse_slice",
    "tpu_devices",
]
