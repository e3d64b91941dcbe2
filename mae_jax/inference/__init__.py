"""The embedding job: whole screens through an encoder, each well once."""

from mae_jax.inference.crop_embeddings import read_crops, read_tokens
from mae_jax.inference.embedding_job import embed_index
from mae_jax.inference.parts import read_embeddings
from mae_jax.inference.progress import EmbedReport
from mae_jax.inference.task_slice import Shard, find_shard, parse_shard

__all__ = [
    "EmbedReport",
    "Shard",
    "embed_index",
    "find_shard",
    "parse_shard",
    "read_crops",
    "read_embeddings",
    "read_tokens",
]
