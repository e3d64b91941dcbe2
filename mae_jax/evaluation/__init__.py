"""The paper's evaluation: from embeddings with metadata to every table and figure.

Needs no model and no image: any table of embeddings will do (`Profiles.read`). Whole evaluations
are specifications: `run(RecallSpec(embeddings=…, relationships=…)).save("evaluation")`.
"""

from mae_jax.evaluation.aggregation import aggregate
from mae_jax.evaluation.corrections import CORRECTIONS, TABLE2, Correction, correct, fit
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols import (
    ActivitySpec,
    BatchEffectsSpec,
    BlocksSpec,
    CompareSpec,
    CompoundGeneSpec,
    ConsistencySpec,
    CPJUMP1Spec,
    FeaturesSpec,
    FlopsSpec,
    GeneSetsSpec,
    MechanismSpec,
    NeighborsSpec,
    PaperSpec,
    RecallSpec,
    ReplicatesSpec,
    RetrievalSpec,
    SiblingsSpec,
    run,
)
from mae_jax.evaluation.relationship_recall import Recall, recall
from mae_jax.evaluation.relationships import Relationships
from mae_jax.evaluation.results import Result

__all__ = [
    "CORRECTIONS",
    "TABLE2",
    "ActivitySpec",
    "BatchEffectsSpec",
    "BlocksSpec",
    "CPJUMP1Spec",
    "ColumnSchema",
    "CompareSpec",
    "CompoundGeneSpec",
    "ConsistencySpec",
    "Correction",
    "FeaturesSpec",
    "FlopsSpec",
    "GeneSetsSpec",
    "MechanismSpec",
    "NeighborsSpec",
    "PaperSpec",
    "Profiles",
    "Recall",
    "RecallSpec",
    "Relationships",
    "ReplicatesSpec",
    "Result",
    "RetrievalSpec",
    "SiblingsSpec",
    "aggregate",
    "correct",
    "fit",
    "recall",
    "run",
]
