"""Everything that turns crops into vectors, behind one interface."""

from mae_jax.encoders.loading import BASELINES, load_encoder
from mae_jax.networks.encoder import Encoder

__all__ = ["BASELINES", "Encoder", "load_encoder"]
