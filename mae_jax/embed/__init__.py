"""The embedding job: whole screens through an encoder, each well once."""

from mae_jax.embed.arrays import read_crops, read_tokens
from mae_jax.embed.job import embed_index
from mae_jax.embed.parts import read_embeddings
from mae_jax.embed.progress import EmbedReport
from mae_jax.embed.shards import Shard, find_shard, parse_shard

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
