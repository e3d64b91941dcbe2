"""DenseNet-161: weakly supervised classifiers."""

from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.densenet.model import DenseNet, GhostBatchNorm, domain_statistics

__all__ = ["DenseNet", "DenseNetConfig", "GhostBatchNorm", "domain_statistics"]
