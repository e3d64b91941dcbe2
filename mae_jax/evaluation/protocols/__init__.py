"""Evaluations as specifications: `run(RecallSpec(…)).save(folder)`.

Each file holds the specifications of one family and the functions that run them. The command line
(`mae-jax evaluate NAME`) only builds a specification from its options.
"""

from collections.abc import Callable
from typing import Any

from mae_jax.evaluation.protocols.base import Progress, Spec
from mae_jax.evaluation.protocols.features import FeaturesSpec, run_features
from mae_jax.evaluation.protocols.flops import FlopsSpec, run_flops
from mae_jax.evaluation.protocols.gene_sets import GeneSetsSpec, run_gene_sets
from mae_jax.evaluation.protocols.paper import PaperSpec, run_paper
from mae_jax.evaluation.protocols.recall import (
    BlocksSpec,
    CompareSpec,
    RecallSpec,
    run_blocks,
    run_compare,
    run_recall,
)
from mae_jax.evaluation.protocols.replicates import ReplicatesSpec, run_replicates
from mae_jax.evaluation.protocols.retrieval import (
    CPJUMP1Spec,
    RetrievalSpec,
    SiblingsSpec,
    run_cpjump1,
    run_retrieval,
    run_siblings,
)
from mae_jax.evaluation.results import Result

__all__ = [
    "RUNNERS",
    "BlocksSpec",
    "CPJUMP1Spec",
    "CompareSpec",
    "FeaturesSpec",
    "FlopsSpec",
    "GeneSetsSpec",
    "PaperSpec",
    "RecallSpec",
    "ReplicatesSpec",
    "Result",
    "RetrievalSpec",
    "SiblingsSpec",
    "run",
]

# Any: each runner takes its own type of specification.
RUNNERS: dict[type[Spec], Callable[[Any, Progress], Result]] = {
    RecallSpec: run_recall,
    RetrievalSpec: run_retrieval,
    SiblingsSpec: run_siblings,
    CPJUMP1Spec: run_cpjump1,
    GeneSetsSpec: run_gene_sets,
    FeaturesSpec: run_features,
    ReplicatesSpec: run_replicates,
    CompareSpec: run_compare,
    BlocksSpec: run_blocks,
    FlopsSpec: run_flops,
    PaperSpec: run_paper,
}


def run(spec: Spec, progress: Progress = lambda message: None) -> Result:
    """Run one evaluation.

    Args:
      spec: any specification of this package.
      progress: called with what is being done.

    Returns:
      Tables, figures and settings; `result.save(folder)` writes what `mae-jax evaluate` writes.

    Raises:
      InputError: whatever the evaluation refuses.
    """
    return RUNNERS[type(spec)](spec, progress)
