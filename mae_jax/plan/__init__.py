"""What a run needs, before it runs: FLOPs by counting, memory and collectives by compiling."""

from mae_jax.plan.compiled import Needs, needs
from mae_jax.plan.flops import crop_flops

__all__ = ["Needs", "crop_flops", "needs"]
