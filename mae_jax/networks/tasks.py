"""What each network learns: its variables, its loss, its pictures and what is saved of it."""

from typing import Any

from mae_jax.networks.classifier import DenseNetTask, ViTTask
from mae_jax.networks.densenet.model import DenseNetConfig
from mae_jax.networks.mae.config import MAEConfig
from mae_jax.networks.mae.task import MAETask
from mae_jax.networks.task import Batch, Scalars, Task
from mae_jax.networks.unet.model import UNetConfig
from mae_jax.networks.unet.task import MUNetTask
from mae_jax.networks.vit.model import ViTConfig

TASKS: dict[type, type[Task]] = {
    MAEConfig: MAETask,
    UNetConfig: MUNetTask,
    DenseNetConfig: DenseNetTask,
    ViTConfig: ViTTask,
}


def task_of(model: Any, crop: int = 256) -> Task:
    """The task of a network's config; `crop` is for those whose config does not name one."""
    return TASKS[type(model)](model, crop)


__all__ = ["Batch", "Scalars", "Task", "task_of"]
