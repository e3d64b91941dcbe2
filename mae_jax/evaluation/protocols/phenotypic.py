"""Phenotypic activity and phenotypic consistency, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.evaluation.phenotypic import by_perturbation, phenotypic_consistency, summarize_nap
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, fraction_text
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.protocols.retrieval import RULE, WELL_SCORE, RankingSpec, null_notes
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.evaluation.retrieval import SIMILARITIES, Retrieval, perturbation_retrieval


@dataclass(frozen=True, kw_only=True)
class PhenotypicSpec(RankingSpec):
    """What activity and consistency share.

    Attributes:
      within: columns of strata; perturbations are ranked within their stratum alone.
      similarity: see `perturbation_retrieval`.
    """

    within: Annotated[
        Sequence[str],
        Option("rank within the values of these columns alone", nargs="+", metavar="COLUMN,…"),
    ] = ()
    similarity: Annotated[
        str, Option("what to rank by; Euclidean suits one or two features", choices=SIMILARITIES)
    ] = "cosine"
    rule: Annotated[str, RULE] = "conservative"


@dataclass(frozen=True, kw_only=True)
class ActivitySpec(PhenotypicSpec):
    """Phenotypic activity: replicates among the controls of their plates, normalized AP."""

    name: ClassVar[str] = "activity"


@dataclass(frozen=True, kw_only=True)
class ConsistencySpec(PhenotypicSpec):
    """Phenotypic consistency: perturbations of one target among those of others, normalized AP.

    Attributes:
      targets: column of the targets.
      absolute, min_perturbations, max_targets: see `phenotypic_consistency`.
    """

    name: ClassVar[str] = "consistency"
    targets: Annotated[str, Option("column of the targets, separated by |", metavar="COLUMN")] = (
        "Metadata_Gene"
    )
    absolute: Annotated[bool, Option("rank by the absolute similarity")] = False
    min_perturbations: Annotated[
        int, Option("leave out targets with fewer perturbations", metavar="N")
    ] = 3
    max_targets: Annotated[
        int, Option("leave out perturbations with more targets", metavar="N")
    ] = 50


def run_activity(spec: ActivitySpec, progress: Progress) -> Result:
    """Tables `perturbations` (one row per perturbation and stratum) and `activity` (means)."""

    def score(wells: Profiles) -> Retrieval:
        return perturbation_retrieval(
            wells,
            by=spec.schema.perturbation,
            within=spec.within,
            similarity=spec.similarity,
            schema=spec.schema,
            rule=spec.rule,
            null_size=spec.null_size,
            seed=spec.seed,
        )

    result = Result(settings=spec.settings(), main="activity.csv")
    means, perturbations = [], []
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = spec.corrected(profiles, progress)
        scores = score(wells)
        result.wells[name] = ScoredWells(
            profiles,
            wells,
            spec.schema,
            spec.correction,
            scores.well_scores(len(wells)),
            WELL_SCORE,
        )
        means.append(summarize_nap(scores.groups, spec.within).assign(embeddings=name))
        table = by_perturbation(scores, spec.schema.perturbation, spec.within)
        perturbations.append(table.assign(embeddings=name))
        result.summary.append(_line(name, scores, "perturbations active"))
        result.summary += null_notes(name, scores, spec, [spec.schema.perturbation, *spec.within])
    result.tables = {"activity": pd.concat(means), "perturbations": pd.concat(perturbations)}
    result.summary.append(spec.holdout.describe())
    return result


def run_consistency(spec: ConsistencySpec, progress: Progress) -> Result:
    """Tables `targets`, `perturbations` (one row each per stratum) and `consistency` (means)."""
    by = spec.schema.perturbation
    result = Result(settings=spec.settings(), main="consistency.csv")
    tables: dict[str, list[pd.DataFrame]] = {"consistency": [], "targets": [], "perturbations": []}
    for name, profiles in spec.load(progress).items():
        progress(name)
        scores = phenotypic_consistency(
            spec.corrected(profiles, progress),
            by=by,
            targets=spec.targets,
            within=spec.within,
            absolute=spec.absolute,
            similarity=spec.similarity,
            min_perturbations=spec.min_perturbations,
            max_targets=spec.max_targets,
            schema=spec.schema,
            rule=spec.rule,
            null_size=spec.null_size,
            seed=spec.seed,
        )
        own = {
            "consistency": summarize_nap(scores.groups, spec.within),
            "targets": scores.groups.rename(columns={"label": "target"}),
            "perturbations": by_perturbation(
                scores, by, spec.within, rule=spec.rule, null_size=spec.null_size, seed=spec.seed
            ),
        }
        for table, part in own.items():
            tables[table].append(part.assign(embeddings=name))
        result.summary.append(_line(name, scores, "targets consistent"))
        result.summary += null_notes(name, scores, spec, ["label", *spec.within])
    result.tables = {name: pd.concat(parts) for name, parts in tables.items()}
    return result


def _line(name: str, scores: Retrieval, word: str) -> str:
    if scores.note:
        return f"{name}: {scores.note}"
    return (
        f"{name}: mean normalized AP {scores.groups['nap'].mean():.4f}; "
        f"{fraction_text(scores.fraction)} of {len(scores.groups)} {word} (q < 0.05)"
    )
