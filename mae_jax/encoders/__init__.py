"""Encoders: everything that turns crops into vectors, behind one interface."""

from mae_jax.encoders.loading import BASELINES, load_encoder
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.networks.encoder import Encoder

__all__ = ["BASELINES", "Encoder", "from_pretrained", "load_encoder"]
