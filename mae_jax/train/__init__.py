"""Training: from a config and an index to checkpoints and a saved model."""

from mae_jax.train.config import TrainConfig
from mae_jax.train.trainer import train

__all__ = ["TrainConfig", "train"]
