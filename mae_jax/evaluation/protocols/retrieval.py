"""Retrieval of perturbations and siblings, and the CPJUMP1 benchmark (Tables 4, 8 and 9)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation import cpjump1
from mae_jax.evaluation.average_precision import RULES
from mae_jax.evaluation.holdout import correct_with_holdout, interval
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, ScoredWellsSpec, fraction_text
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.results import Result, ScoredWells
from mae_jax.evaluation.retrieval import (
    Retrieval,
    fraction_over_seeds,
    perturbation_retrieval,
    sibling_retrieval,
)

RULE = Option("how a perturbation is called retrieved", choices=RULES)
NULL_SIZE = Option("number of random rankings")
DEFAULT_NULL_SIZE = 10_000
WELL_SCORE = "average precision among the controls of the plate"


@dataclass(frozen=True, kw_only=True)
class RankingSpec(ScoredWellsSpec):
    """What the retrievals share.

    Attributes:
      rule, null_size: see `group_significance`.
    """

    rule: Annotated[str, RULE] = "copairs"
    null_size: Annotated[int, NULL_SIZE] = DEFAULT_NULL_SIZE


@dataclass(frozen=True, kw_only=True)
class RetrievalSpec(RankingSpec):
    """Retrieval of each perturbation's replicates among the controls of their plates.

    Attributes:
      holdout_splits: how many random splits of the controls to score, with the seeds `seed`,
        `seed` + 1, …; the table `splits` has the fraction retrieved in each.
    """

    name: ClassVar[str] = "retrieval"
    holdout_splits: Annotated[
        int,
        Option(
            "score N random splits of what is held out, with mean, standard deviation and interval",
            metavar="N",
        ),
    ] = 1


@dataclass(frozen=True, kw_only=True)
class SiblingsSpec(RankingSpec):
    """Retrieval of siblings among the perturbations that were retrieved themselves.

    Attributes:
      siblings: column of the sibling labels, separated by "|".
      absolute: rank by |cosine| (compounds).
    """

    name: ClassVar[str] = "siblings"
    siblings: Annotated[str, Option("column of labels, separated by |", metavar="COLUMN")] = (
        "Metadata_Gene"
    )
    absolute: Annotated[bool, Option("rank by |cosine| (compounds)")] = False


@dataclass(frozen=True, kw_only=True)
class CPJUMP1Spec(RankingSpec):
    """Both retrievals on CPJUMP1's own plates.

    Attributes:
      design: folder of CPJUMP1's metadata.
    """

    name: ClassVar[str] = "cpjump1"
    design: Annotated[
        str | os.PathLike[str], Option("folder of CPJUMP1's metadata", metavar="FOLDER")
    ]
    rule: Annotated[str, RULE] = "2023"


def run_retrieval(spec: RetrievalSpec, progress: Progress) -> Result:
    """Tables `retrieval` (one row per perturbation and embeddings) and, of several, `splits`."""
    held_out = spec.holdout_controls or spec.holdout_treatments or spec.holdout_plates
    if spec.holdout_splits < 1 or (spec.holdout_splits > 1 and not held_out):
        raise InputError(
            f"holdout_splits must be 1 or more, and 1 where no controls are held out, not "
            f"{spec.holdout_splits}."
        )
    result = Result(settings=spec.settings(), main="retrieval.csv")
    rows, splits = [], []
    for name, profiles in spec.load(progress).items():
        progress(name)
        for seed in range(spec.seed, spec.seed + spec.holdout_splits):
            wells = replace(spec, seed=seed).corrected(profiles, progress)
            scores = perturbation_retrieval(
                wells,
                by=spec.schema.perturbation,
                schema=spec.schema,
                rule=spec.rule,
                null_size=spec.null_size,
                seed=seed,
            )
            splits.append({"embeddings": name, "seed": seed, "fraction": scores.fraction})
            if seed == spec.seed:
                rows.append(scores.groups.assign(embeddings=name))
                result.wells[name] = ScoredWells(
                    profiles,
                    wells,
                    spec.schema,
                    spec.correction,
                    scores.well_scores(len(wells)),
                    WELL_SCORE,
                )
                result.summary.append(
                    f"{name}: {fraction_text(scores.fraction)} of {len(scores.groups)} retrieved "
                    f"{scores.note}".rstrip()
                )
                result.summary += null_notes(name, scores, spec, spec.schema.perturbation)
    result.tables["retrieval"] = pd.concat(rows)
    if spec.holdout_splits > 1:
        table = result.tables["splits"] = pd.DataFrame(splits)
        for label, fractions in table.groupby("embeddings", sort=False)["fraction"]:
            mean, low, high = interval(fractions.to_list())
            result.summary.append(
                f"{label}: {mean:.3f} [{low:.3f}, {high:.3f}], standard deviation "
                f"{fractions.std():.3f} (ddof 1), over {len(fractions)} splits of the controls"
                f"{' and treatments' if spec.holdout_treatments else ''}"
                f"{' and plates' if spec.holdout_plates else ''}; the 95 % interval is that of the "
                "choice of the split"
            )
    result.summary.append(spec.holdout.describe())
    return result


def null_notes(
    name: str, scores: Retrieval, spec: RankingSpec, by: str | Sequence[str]
) -> list[str]:
    """How much the fraction depends on the draws of the null, and whether it is calibrated."""
    if scores.queries.empty:
        return []
    low, high = fraction_over_seeds(
        scores, by, rule=spec.rule, null_size=spec.null_size, seed=spec.seed
    )
    notes = []
    if low < high:
        notes.append(f"{name}: {low:.3f} to {high:.3f} over 3 seeds of the null")
    sizes = scores.queries[["positives", "negatives"]].drop_duplicates().to_numpy()
    m, n = min(sizes.tolist(), key=lambda size: comb(sum(size), size[0]))
    if spec.rule != "conservative" and comb(m + n, m) < 1000:
        notes.append(
            f"{name}: {m} positives are all first among {n} negatives by chance once in "
            f"{comb(m + n, m)}, which --rule {spec.rule} calls significant; --rule conservative "
            "does not"
        )
    return notes


def run_siblings(spec: SiblingsSpec, progress: Progress) -> Result:
    """Table `siblings`: one row per label and embeddings."""
    result = Result(settings=spec.settings(), main="siblings.csv")
    by, rows = spec.schema.perturbation, []
    for name, profiles in spec.load(progress).items():
        progress(name)
        wells = spec.corrected(profiles, progress)
        replicates = perturbation_retrieval(
            wells, by=by, schema=spec.schema, rule=spec.rule, null_size=spec.null_size,
            seed=spec.seed,
        )  # fmt: skip
        retrieved = replicates.groups.loc[replicates.groups["retrieved"].astype(bool), by]
        scores = sibling_retrieval(
            wells, retrieved.tolist(), by=by, siblings=spec.siblings, absolute=spec.absolute,
            schema=spec.schema, rule=spec.rule, null_size=spec.null_size, seed=spec.seed,
        )  # fmt: skip
        rows.append(scores.groups.assign(embeddings=name))
        result.summary.append(
            f"{name}: {fraction_text(scores.fraction)} of {len(scores.groups)} labels "
            f"{scores.note}".rstrip()
        )
        result.summary += null_notes(name, scores, spec, "label")
    result.tables["siblings"] = pd.concat(rows)
    result.summary.append(spec.holdout.describe())
    return result


def run_cpjump1(spec: CPJUMP1Spec, progress: Progress) -> Result:
    """Tables `conditions` (Tables 8 and 9) and `summary` (Table 4)."""
    conditions, summaries = [], []
    for name, profiles in spec.load(progress).items():
        table = score_cpjump1(spec, profiles, progress)
        conditions.append(table.assign(embeddings=name))
        summaries.append(cpjump1.summary(table).assign(embeddings=name))
    summary = pd.concat(summaries)
    return Result(
        tables={"conditions": pd.concat(conditions), "summary": summary},
        settings=spec.settings(),
        summary=[summary.to_string(index=False), spec.holdout.describe()],
        main="summary.csv",
    )


def score_cpjump1(spec: CPJUMP1Spec, profiles: Profiles, progress: Progress) -> pd.DataFrame:
    """The fraction retrieved in each condition; corrected by plate unless `batch` is given."""

    def corrected(wells: Profiles) -> Profiles:
        return correct_with_holdout(
            wells,
            spec.correction,
            holdout=spec.holdout,
            fit_on=spec.fit_on,
            batch=spec.batch or "plate",
            schema=cpjump1.SCHEMA,
        )[0]

    table, _ = cpjump1.benchmark(
        cpjump1.annotate(profiles, spec.design),
        rule=spec.rule,
        null_size=spec.null_size,
        seed=spec.seed,
        correct=corrected,
        progress=progress,
    )
    return table
