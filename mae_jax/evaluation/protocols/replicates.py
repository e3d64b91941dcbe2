"""Replicate consistency and perturbation strength, as tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd

from mae_jax.evaluation.inert_null import (
    GENERATION,
    against_inert,
    efaar_signals,
    inert_perturbations,
)
from mae_jax.evaluation.profiles import Profiles
from mae_jax.evaluation.protocols.base import Progress, ScoredWellsSpec
from mae_jax.evaluation.protocols.option import Option
from mae_jax.evaluation.replicates import ENERGIES, perturbation_strength, replicate_consistency
from mae_jax.evaluation.results import Result


@dataclass(frozen=True, kw_only=True)
class ReplicatesSpec(ScoredWellsSpec):
    """Consistency and strength of each perturbation.

    Attributes:
      energy: variant of the energy distance, see `energy_distance`.
      null_perturbations: inert perturbations, for a second null and for EFAAR's signals; see
        `inert_perturbations`.
      permutations: of labels, for the p-values.
    """

    name: ClassVar[str] = "replicates"
    energy: Annotated[
        str,
        Option(
            "energy distance: EFAAR's, pertpy's E-distance or scperturb's", choices=tuple(ENERGIES)
        ),
    ] = "efaar"
    null_perturbations: Annotated[
        Sequence[str],
        Option(
            "inert perturbations, for a null besides the permutations: names, a file with a name "
            "per line, or COLUMN=VALUE",
            nargs="+",
            metavar="NAME,…",
        ),
    ] = ()
    permutations: Annotated[int, Option("permutations of the labels, for the p-values")] = 1000


# Table, statistic of a null of the same plates, its q-value, and the word for a small q.
_SCORES = (
    ("consistency", "z", "q", "consistent"),
    ("strength", "z", "q", "strong by the mean"),
    ("strength", "energy_z", "energy_q", "strong by the energy distance ({})"),
)


def run_replicates(spec: ReplicatesSpec, progress: Progress) -> Result:
    """Tables `consistency`, `strength` and `perturbations`: one row per perturbation.

    With inert perturbations also `efaar`.
    """
    result = Result(settings=spec.settings(), main="strength.csv")
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, profiles in spec.load(progress).items():
        progress(name)
        scores = _score(spec, spec.corrected(profiles, progress), name, result.summary)
        for table, rows in scores.items():
            tables.setdefault(table, []).append(rows.assign(embeddings=name))
    result.tables = {name: pd.concat(parts) for name, parts in tables.items()}
    result.summary.append(spec.holdout.describe())
    return result


def _score(
    spec: ReplicatesSpec, wells: Profiles, name: str, summary: list[str]
) -> dict[str, pd.DataFrame]:
    by, schema = spec.schema.perturbation, spec.schema
    tables = {
        "consistency": replicate_consistency(
            wells, by=by, schema=schema, permutations=spec.permutations, seed=spec.seed
        ),
        "strength": perturbation_strength(
            wells,
            by=by,
            schema=schema,
            energy=spec.energy,
            permutations=spec.permutations,
            seed=spec.seed,
        ),
    }
    for table, _, q, word in _SCORES:
        word = word.format(spec.energy)
        share = (tables[table][q] < 0.05).mean()
        summary.append(f"{name}: {share:.3f} of {len(tables[table])} {word} (q < 0.05)")
    if spec.null_perturbations:
        inert = inert_perturbations(spec.null_perturbations, wells, by)
        for table, statistic, q, word in _SCORES:
            word = word.format(spec.energy)
            column = "inert_" + q
            p, adjusted = against_inert(tables[table], statistic, inert, by)
            tables[table][column.replace("q", "p")], tables[table][column] = p, adjusted
            tested = int((p == p).sum())
            share = (adjusted < 0.05).sum() / max(tested, 1)
            summary.append(
                f"{name}: {share:.3f} of {tested} {word} against {len(inert)} inert perturbations "
                "(q < 0.05)"
            )
        tables["efaar"] = efaar_signals(wells, inert, by=by, schema=schema, seed=spec.seed)
        for signal in ("consistency", "magnitude"):
            published = tables["efaar"][f"{signal}_p_efaar"].dropna()
            summary.append(
                f"{name}: {signal} of {GENERATION} (p = share of {len(inert)} inert perturbations, "
                f"not corrected): {(published < 0.05).mean():.3f} of {len(published)} below 0.05"
                if len(published)
                else f"{name}: too few wells for the {signal} of {GENERATION}"
            )
    tables["perturbations"] = _by_perturbation(tables, by)
    return tables


def _by_perturbation(tables: dict[str, pd.DataFrame], by: str) -> pd.DataFrame:
    """perturbation, n, score (energy distance), p, q; then strength and consistency."""
    energy = {"energy": "score", "energy_p": "p", "energy_q": "q"}
    columns = {by: "perturbation", "replicates": "n"}
    strength = tables["strength"].rename(columns={"p": "strength_p", "q": "strength_q"})
    strength = strength.rename(columns=columns | energy)
    rows = strength[
        ["perturbation", "n", "score", "p", "q", "strength", "strength_p", "strength_q"]
    ]
    consistency = tables["consistency"].rename(
        columns={by: "perturbation", "p": "consistency_p", "q": "consistency_q"}
    )
    names = ["perturbation", "consistency", "consistency_p", "consistency_q"]
    return rows.merge(consistency[names], on="perturbation", how="left")
