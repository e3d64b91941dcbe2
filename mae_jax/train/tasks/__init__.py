"""What each network learns: its variables, its loss, its pictures and what is saved of it."""

from typing import Any

from mae_jax.models.config import MAEConfig
from mae_jax.models.densenet import DenseNetConfig
from mae_jax.models.plain_vit import PlainViTConfig
from mae_jax.models.unet import UNetConfig
from mae_jax.train.tasks.base import Batch, Scalars, Task
from mae_jax.train.tasks.mae import MAETask
from mae_jax.train.tasks.munet import MUNetTask
from mae_jax.train.tasks.wsl import DenseNetTask, ViTTask

TASKS: dict[type, type[Task]] = {
    MAEConfig: MAETask,
    UNetConfig: MUNetTask,
    DenseNetConfig: DenseNetTask,
    PlainViTConfig: ViTTask,
}


def task_of(model: Any, crop: int = 256) -> Task:
    """The task of a network's config; `crop` is for those whose config does not name one."""
    return TASKS[type(model)](model, crop)


__all__ = ["Batch", "Scalars", "Task", "task_of"]
