"""The paper's evaluation: from embeddings with metadata to every table and figure.

Needs no model and no image: any table of embeddings will do (`Profiles.read`).
"""

from mae_jax.evaluation.aggregate import aggregate
from mae_jax.evaluation.corrections import CORRECTIONS, VARIANTS, Correction, correct, fit
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.recall import Recall, recall
from mae_jax.evaluation.relationships import Relationships

__all__ = [
    "CORRECTIONS",
    "VARIANTS",
    "ColumnSchema",
    "Correction",
    "Profiles",
    "Recall",
    "Relationships",
    "aggregate",
    "correct",
    "fit",
    "recall",
]
