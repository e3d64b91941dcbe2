"""The wells and the perturbations of an evaluation, in one form for its page."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.evaluation.aggregation import aggregate, l2_normalize
from mae_jax.evaluation.corrections import correct
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.protocols.base import MapSpec, ScoredWellsSpec, Spec, WellsSpec
from mae_jax.evaluation.results import Result, ScoredWells

REPLICATE_COSINE = "mean cosine to the replicates"
# Columns that hold a perturbation's score, the first that is there; and their names.
_SCORES = {
    "score": "score",
    "map": "mean average precision",
    "strength": "strength",
    "mean_cosine": "mean cosine of replicates",
    "consistency": "consistency",
}
_SCORES_OF = {"activity": "mean normalized AP", "consistency": "mean normalized AP"}


def wells_of(
    spec: Spec, result: Result, notes: Callable[[str], None] = lambda message: None
) -> dict[str, ScoredWells]:
    """The wells before and after correction, by embeddings; empty where an evaluation has none.

    What the evaluation kept (`Result.wells`) is taken; else the wells are read and corrected once
    more, of a map by its best correction.
    """
    if result.wells:
        return result.wells
    if isinstance(spec, ScoredWellsSpec):
        found = {}
        for name, before in spec.load().items():
            if spec.schema.perturbation in before.metadata:
                after = spec.corrected(before, lambda message: None)
                found[name] = ScoredWells(before, after, spec.schema, spec.correction)
        return found
    method = getattr(spec, "correction", None)
    if isinstance(spec, WellsSpec) and not isinstance(spec, MapSpec) and method is not None:
        found = {}
        for name, before in spec.load().items():
            if spec.schema.perturbation in before.metadata:
                after = correct(
                    before, method, fit_on=spec.fit_on, batch=spec.batch, schema=spec.schema
                )
                found[name] = ScoredWells(before, after, spec.schema, method)
        return found
    best = result.settings.get("best")
    if isinstance(spec, MapSpec) and isinstance(best, dict):
        name, method = str(best["embeddings"]), str(best["correction"])
        if name in spec.embeddings:
            before = spec.load_one(spec.embeddings[name])
            after = correct(
                before, method, fit_on=spec.fit_on, batch=spec.batch, schema=spec.schema
            )
            schema = spec.schema
            if spec.by in before.metadata:
                schema = ColumnSchema(
                    experiment=schema.experiment, plate=schema.plate, well=schema.well,
                    perturbation=spec.by, gene=schema.gene, controls=schema.controls,
                )  # fmt: skip
            return {name: ScoredWells(before, after, schema, method)}
    return {}


def control_rows(profiles: Profiles, schema: ColumnSchema) -> np.ndarray:
    """The mask of the negative controls; all False where the screen has none."""
    name, _, values = schema.controls.partition("=")
    if schema.controls == "none" or name not in profiles.metadata:
        return np.zeros(len(profiles), bool)
    return profiles.metadata[name].isin(values.split("|")).to_numpy(dtype=bool)


def perturbation_tables(result: Result, schema: ColumnSchema | None) -> dict[str, pd.DataFrame]:
    """Scores per perturbation, by embeddings: perturbation, n, score, p, q (NaN: not computed).

    They are the table `perturbations`, or the first table with a column of the perturbation and one
    of a score that is known here. Highest score first.
    """
    found = _scored_table(result, schema)
    if found is None:
        return {}
    table, label, score = found
    count = next((c for c in ("n", "queries", "replicates", "wells") if c in table), None)
    one_form = pd.DataFrame(
        {
            "embeddings": table["embeddings"].astype(str) if "embeddings" in table else "",
            "perturbation": table[label].astype(str),
            "n": table[count] if count else np.nan,
            "score": pd.to_numeric(table[score]),
            "p": pd.to_numeric(table["p"]) if "p" in table else np.nan,
            "q": pd.to_numeric(table["q"]) if "q" in table else np.nan,
        }
    ).sort_values("score", ascending=False, kind="stable")
    groups = one_form.groupby("embeddings", sort=False)
    return {str(key): rows.reset_index(drop=True) for key, rows in groups}


def score_label(result: Result, schema: ColumnSchema | None) -> str:
    """What the scores of `perturbation_tables` are called."""
    found = _scored_table(result, schema)
    name = _SCORES[found[2]] if found else "score"
    evaluation = str(result.settings.get("evaluation", ""))
    return _SCORES_OF.get(evaluation, name) if name == "score" else name


def _scored_table(
    result: Result, schema: ColumnSchema | None
) -> tuple[pd.DataFrame, str, str] | None:
    """The table of perturbations, its column of labels and its column of scores."""
    by = schema.perturbation if schema else "Metadata_Perturbation"
    for name in ("perturbations", *result.tables):
        table = result.tables.get(name)
        if table is not None and len(table):
            label = next((c for c in ("perturbation", by) if c in table.columns), None)
            score = next((c for c in _SCORES if c in table.columns), None)
            if label is not None and score is not None:
                return table, label, score
    return None


def well_scores(wells: ScoredWells) -> tuple[Float[np.ndarray, " wells"], str]:
    """One number per row of `wells.after`, and its name.

    Without scores of the evaluation: the mean cosine of a well to the other wells of its
    perturbation; of a control, to the other controls of its plate. NaN: it has none.
    """
    if wells.scores is not None:
        return wells.scores, wells.score_name
    profiles, schema = wells.after, wells.schema
    labels = profiles.metadata[schema.perturbation].astype(str).to_numpy(dtype=object)
    controls = control_rows(profiles, schema)
    plates = profiles.batches("plate", schema).astype(str)
    groups = np.where(controls, "\0" + plates.astype(object), labels)
    codes, names = pd.factorize(groups)
    rows = l2_normalize(profiles.features).astype(np.float64)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, codes, rows)
    others = np.bincount(codes, minlength=len(names))[codes] - 1
    total = np.einsum("nf,nf->n", rows, sums[codes]) - np.einsum("nf,nf->n", rows, rows)
    scores = np.full(len(rows), np.nan)
    some = (others > 0) & (groups != "")
    scores[some] = total[some] / others[some]
    return scores, REPLICATE_COSINE


def similarity(wells: ScoredWells, shown: list[str]) -> tuple[list[str], np.ndarray]:
    """Cosines between the mean profiles of some perturbations, origin at the controls' mean."""
    schema = wells.schema
    controls = schema.controls if control_rows(wells.after, schema).any() else None
    means = aggregate(wells.after, schema.perturbation, controls=controls)
    labels = means.metadata[schema.perturbation].astype(str)
    at = {label: i for i, label in enumerate(labels)}
    rows = [at[label] for label in shown if label in at]
    unit = means.features[rows]
    return [labels[i] for i in rows], unit @ np.ascontiguousarray(unit.T)
