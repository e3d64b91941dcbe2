"""Training: from a config and an index to checkpoints and a saved model."""

from mae_jax.train.callbacks import Callback
from mae_jax.train.config import TrainConfig
from mae_jax.train.evaluators import Evaluator
from mae_jax.train.trainer import Trainer, train

__all__ = ["Callback", "Evaluator", "TrainConfig", "Trainer", "train"]
