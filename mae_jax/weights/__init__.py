"""Weights on disk: saved models, and the layouts of other implementations."""

from mae_jax.weights.folder import load_model, save_model
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pretrained import from_pretrained

__all__ = ["Preprocessing", "from_pretrained", "load_model", "save_model"]
