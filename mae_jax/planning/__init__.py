"""What a run needs and takes, before it runs: the real step, compiled for hardware that is not
there."""

from mae_jax.distributed.hardware import CHIPS, Slice, slice_of
from mae_jax.planning.compile_cost import DoesNotFit, Needs, needs, tpu_devices
from mae_jax.planning.formula import needs_by_formula
from mae_jax.planning.roofline import Estimate, estimate

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
