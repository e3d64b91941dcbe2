"""Whole screens through an encoder: embeddings of every well, and reconstructions to look at."""

from mae_jax.embeddings import read_crops, read_embeddings, read_tokens
from mae_jax.inference.embedding_job import embed_index
from mae_jax.inference.progress import EmbedReport
from mae_jax.inference.task_slice import TaskSlice, detect_task_slice, parse_task_slice

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
