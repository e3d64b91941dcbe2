"""Embeddings folders on disk: manifest, shards, and the one reader; no JAX."""

from mae_jax.embeddings.crop_arrays import read_crops, read_tokens
from mae_jax.embeddings.reader import EmbeddingsReader, is_embeddings_folder, read_embeddings

__all__ = [
    "EmbeddingsReader",
    "is_embeddings_folder",
    "read_crops",
    "read_embeddings",
    "read_tokens",
]
