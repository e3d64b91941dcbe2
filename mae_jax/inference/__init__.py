"""Whole screens through an encoder: embeddings of every well, and reconstructions to look at.

Names are imported on first use, so that the help of `mae-jax embed` does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae_jax.embeddings import read_crops, read_embeddings, read_tokens
    from mae_jax.inference.embedding_job import embed_index
    from mae_jax.inference.progress import EmbedReport
    from mae_jax.inference.task_slice import TaskSlice, detect_task_slice, parse_task_slice

# Public name -> the module that has it.
_PUBLIC = {
    "EmbedReport": "mae_jax.inference.progress",
    "TaskSlice": "mae_jax.inference.task_slice",
    "detect_task_slice": "mae_jax.inference.task_slice",
    "embed_index": "mae_jax.inference.embedding_job",
    "parse_task_slice": "mae_jax.inference.task_slice",
    "read_crops": "mae_jax.embeddings",
    "read_embeddings": "mae_jax.embeddings",
    "read_tokens": "mae_jax.embeddings",
}

__all__ = [
    "EmbedReport",
    "TaskSlice",
    "detect_task_slice",
    "embed_index",
    "parse_task_slice",
    "read_crops",
    "read_embeddings",
    "read_tokens",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mae_jax.inference' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
