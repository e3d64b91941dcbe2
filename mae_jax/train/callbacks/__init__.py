"""Callbacks: all that a training run does besides its steps."""

from mae_jax.train.callbacks.base import Callback, is_due
from mae_jax.train.callbacks.checkpointing import Checkpointing
from mae_jax.train.callbacks.early_stopping import EarlyStopping
from mae_jax.train.callbacks.metric_logging import MetricLogging
from mae_jax.train.callbacks.profiler import Profiler
from mae_jax.train.callbacks.progress import ProgressBar
from mae_jax.train.callbacks.reconstruction_images import ReconstructionImages
from mae_jax.train.callbacks.watchdog import HangWatchdog

__all__ = [
    "Callback",
    "Checkpointing",
    "EarlyStopping",
    "HangWatchdog",
    "MetricLogging",
    "Profiler",
    "ProgressBar",
    "ReconstructionImages",
    "is_due",
]
