"""Replicate consistency and perturbation strength, as tables."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.evaluation.holdout import describe
from mae_jax.evaluation.protocols.base import Progress, ScoredWellsSpec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.replicates import perturbation_strength, replicate_consistency
from mae_jax.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class ReplicatesSpec(ScoredWellsSpec):
    """Consistency and strength of each perturbation.

    Attributes:
      permutations: of labels, for the p-values.
    """

    name: ClassVar[str] = "replicates"
    permutations: Annotated[int, Option("permutations of the labels, for the p-values")] = 1000


def run_replicates(spec: ReplicatesSpec, progress: Progress) -> Result:
    """Tables `consistency` and `strength`: one row per perturbation and embeddings."""
    result = Result(settings=spec.settings(), main="strength.csv")
    scores = {"consistency": replicate_consistency, "strength": perturbation_strength}
    words = {
        "consistency": {"q": "consistent"},
        "strength": {"q": "strong by the mean", "energy_q": "strong by the energy distance"},
    }
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in scores}
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = spec.corrected(profiles, progress)
        for score, function in scores.items():
            table = function(
                wells,
                by=spec.schema.perturbation,
                schema=spec.schema,
                permutations=spec.permutations,
                seed=spec.seed,
            )
            tables[score].append(table.assign(embeddings=name))
            for q, word in words[score].items():
                share = (table[q] < 0.05).mean()
                result.summary.append(f"{name}: {share:.3f} of {len(table)} {word} (q < 0.05)")
    result.tables = {name: pd.concat(parts) for name, parts in tables.items()}
    result.summary.append(describe(spec.holdout_controls))
    return result
