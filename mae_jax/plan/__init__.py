"""What a run needs, before it runs: FLOPs by counting, memory and collectives by compiling."""

from mae_jax.plan.compiled import Needs, needs

__all__ = ["Needs", "needs"]
