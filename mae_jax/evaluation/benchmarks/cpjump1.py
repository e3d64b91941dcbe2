"""CPJUMP1: retrieval of perturbations and of siblings in twelve conditions (Tables 4, 8 and 9)."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation import cpjump1
from mae_jax.evaluation.benchmarks.base import (
    HELD_OUT,
    OF_THE_FIT,
    BenchmarkSpec,
    Model,
    Scores,
)
from mae_jax.evaluation.benchmarks.published import paper_rows
from mae_jax.evaluation.holdout import correct_with_holdout
from mae_jax.evaluation.pair_intervals import clustered_interval
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.evaluation.retrieval import Retrieval

TASKS = ("perturbation", "siblings")
_OF_COUNTS = "standardize-plate"  # the correction of the baseline


@dataclass(frozen=True, kw_only=True)
class CPJUMP1BenchmarkSpec(BenchmarkSpec):
    """CPJUMP1's 40 plates.

    Attributes:
      correction: of each condition's wells, by plate, fitted on the negative controls.
      splits: random splits of the controls into those of the fit and those of the score.
      null_size, sibling_null_size: random rankings.
    """

    name: ClassVar[str] = "cpjump1"
    correction: Annotated[str, Option("name of a correction, by plate")] = "tvn"
    splits: Annotated[int, Option("random splits of the controls to score", metavar="N")] = 5
    null_size: Annotated[int, Option("random rankings")] = 10_000
    sibling_null_size: Annotated[int, Option("random rankings of the siblings")] = (
        cpjump1.SIBLING_NULL_SIZE
    )


def plate_wells(spec: BenchmarkSpec) -> pd.DataFrame:
    """The benchmark's wells on 40 plates: see `cpjump1.wells`."""
    return cpjump1.wells(spec.metadata)


def run_cpjump1_benchmark(spec: CPJUMP1BenchmarkSpec, scores: Scores, progress: Progress) -> Result:
    """Score every model as published and against held-out controls.

    A row for each condition and for the mean over the conditions; intervals count a perturbation
    (or a label) as one unit, in all conditions and splits.
    """
    if spec.splits < 1:
        raise InputError(f"splits must be 1 or more, not {spec.splits}.")
    kept: dict[str, ScoredWells] = {}
    for model in scores.models:
        for protocol, seeds in ((OF_THE_FIT, [None]), (HELD_OUT, range(spec.splits))):
            found = []
            for seed in seeds:
                progress(f"{model.name}: {protocol}" + ("" if seed is None else f", split {seed}"))
                found.append(_retrievals(spec, model, None if seed is None else spec.seed + seed))
            for task in TASKS:
                _add_task(scores, model.name, protocol, task, found)
            if protocol == HELD_OUT:
                scores.perturbations.append(_table(model.name, found[0]))
        if not model.is_count:
            after = _corrected(spec, model, model.profiles, spec.seed)
            kept[model.name] = ScoredWells(model.profiles, after, cpjump1.SCHEMA, spec.correction)
    scores.notes.append(
        "intervals of 95 %: over perturbations or labels, each one unit in all conditions"
    )
    conditions = sorted(set(scores.models[0].profiles.column("Metadata_Condition")))
    result = scores.result([_mean_metric(task, len(conditions)) for task in TASKS],
                           _published(conditions))  # fmt: skip
    result.wells = kept
    return result


def _corrected(
    spec: CPJUMP1BenchmarkSpec, model: Model, wells: Profiles, seed: int | None
) -> Profiles:
    """The wells to score; seed None: against the controls of the fit."""
    return correct_with_holdout(
        wells,
        _OF_COUNTS if model.is_count else spec.correction,
        fraction=0.0 if seed is None else 0.5,
        batch="plate",
        schema=cpjump1.SCHEMA,
        seed=seed or 0,
    )[0]


def _retrievals(
    spec: CPJUMP1BenchmarkSpec, model: Model, seed: int | None
) -> dict[tuple[str, str], Retrieval]:
    _, found = cpjump1.benchmark(
        model.profiles,
        null_size=spec.null_size,
        sibling_null_size=spec.sibling_null_size,
        seed=spec.seed,
        similarity="euclidean" if model.is_count else "cosine",
        correct=lambda wells: _corrected(spec, model, wells, seed),
    )
    return found


def _add_task(
    scores: Scores,
    model: str,
    protocol: str,
    task: str,
    splits: list[dict[tuple[str, str], Retrieval]],
) -> None:
    """Rows of one task: every condition, and the mean over those that could be tested.

    A label that is tested in some splits only (siblings) counts as their mean there.
    """
    units = []
    for (condition, name), _ in splits[0].items():
        if name != task:
            continue
        groups = [found[condition, task].groups for found in splits]
        hits = pd.concat([g.set_index(g.columns[0])["retrieved"].astype(float) for g in groups])
        value = float(np.mean([g["retrieved"].astype(float).mean() for g in groups if len(g)]
                              or [np.nan]))  # fmt: skip
        means = hits.groupby(level=0).mean() if len(hits) else hits
        interval = _interval(means.to_numpy(float), np.asarray(means.index), value)
        scores.add(model, f"{task}, {condition}", value, interval, len(means), protocol)
        if len(means):
            units.append((condition, value, means))
    if not units:
        return
    # Each condition weighs the same, and so do its units.
    total = sum(len(means) for _, _, means in units)
    weighted = [means * total / (len(units) * len(means)) for _, _, means in units]
    # Residuals from each condition's own mean: conditions differ, which is no error of the mean.
    residuals = np.concatenate([w.to_numpy(float) - float(w.mean()) for w in weighted])
    labels = np.concatenate([np.asarray(w.index) for w in weighted])
    mean = float(np.mean([value for _, value, _ in units]))
    metric = _mean_metric(task, len({c for c, t in splits[0] if t == task}))
    scores.add(model, metric, mean, _interval(residuals, labels, mean), total, protocol)


def _interval(values: np.ndarray, clusters: np.ndarray, center: float) -> tuple[float, float]:
    """The interval of a mean share, moved to `center`, within 0 and 1."""
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = clustered_interval(values, clusters)
    half = (high - low) / 2
    return max(center - half, 0.0), min(center + half, 1.0)


def _mean_metric(task: str, conditions: int) -> str:
    return f"{task}, mean of {conditions} conditions"


def _table(model: str, found: dict[tuple[str, str], Retrieval]) -> pd.DataFrame:
    """Scores of perturbations in each condition, of the first split."""
    parts = []
    for (condition, task), retrieval in found.items():
        if task == "perturbation":
            groups = retrieval.groups
            parts.append(
                pd.DataFrame(
                    {
                        "embeddings": model,
                        "perturbation": groups[groups.columns[0]],
                        "condition": condition,
                        "n": groups["queries"],
                        "score": groups["map"],
                        "p": groups["p"],
                        "q": groups["q"],
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def _published(conditions: list[str]) -> pd.DataFrame:
    """Tables 8 and 9 for these conditions, their means, and Table 4 where all twelve are there."""
    parts = []
    for task, number in zip(TASKS, ("8", "9"), strict=True):
        rows = paper_rows(number, OF_THE_FIT)
        rows = rows[rows["metric"].isin(conditions)]
        means = rows.groupby(["model", "source"], sort=False, as_index=False)["value"].mean()
        few = rows.drop_duplicates("model").drop(columns=["value", "model", "source", "metric"])
        parts += [
            rows.assign(metric=f"{task}, " + rows["metric"]),
            pd.concat([means.reset_index(drop=True), few.reset_index(drop=True)], axis=1).assign(
                metric=_mean_metric(task, len(conditions)),
            ),
        ]
    if len(conditions) == 12:
        table4 = paper_rows("4", OF_THE_FIT)
        parts.append(table4.assign(metric=[_mean_metric(t, 12) for t in table4["metric"]]))
    return pd.concat(parts, ignore_index=True)
