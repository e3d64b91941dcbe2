"""Everything that turns crops into vectors, behind one interface."""

from mae_jax.encoders.base import Encoder
from mae_jax.encoders.loading import BASELINES, load_encoder

__all__ = ["BASELINES", "Encoder", "load_encoder"]
