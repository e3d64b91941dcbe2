"""What a run needs and takes, before it runs: the real step, compiled for hardware that is not
there."""

from mae_jax.plan.compiled import DoesNotFit, Needs, needs, tpu_devices
from mae_jax.plan.estimate import Estimate, estimate
from mae_jax.plan.formula import needs_by_formula
from mae_jax.plan.hardware import CHIPS, Slice, slice_of

__all__ = [
    "CHIPS",
    "DoesNotFit",
    "Estimate",
    "Needs",
    "Slice",
    "estimate",
    "needs",
    "needs_by_formula",
    "slice_of",
    "tpu_devices",
]
