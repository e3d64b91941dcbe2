"""Perturbation and sibling retrieval (section 5.3, Tables 4, 8 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import (
    average_precision,
    group_significance,
    is_sampled,
)
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

SIMILARITIES = ("cosine", "euclidean")


@dataclass(frozen=True)
class Retrieval:
    """What was retrieved.

    Attributes:
      fraction: retrieved groups over tested groups; NaN when none could be tested.
      groups: one row per group: its label, queries, map, nap, p, q, retrieved.
      queries: one row per query: ap, positives, negatives and its metadata.
      note: why nothing could be tested, or "".
    """

    fraction: float
    groups: pd.DataFrame
    queries: pd.DataFrame
    note: str = ""

    def well_scores(self, wells: int) -> Float[np.ndarray, " wells"]:
        """AP of every well, of a `perturbation_retrieval` among `wells`; NaN where it has none."""
        scores = np.full(wells, np.nan)
        scores[self.queries["row"].to_numpy(dtype=int)] = self.queries["ap"].to_numpy(np.float64)
        return scores


def perturbation_retrieval(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    within: Sequence[str] = (),
    similarity: str = "cosine",
    schema: ColumnSchema | None = None,
    rule: str = "copairs",
    null_size: int = 10_000,
    seed: int = 0,
    q: float = 0.05,
) -> Retrieval:
    """Which perturbations' replicates find each other among the negative controls of their plate.

    For each treated well: positives are the other wells of the same perturbation on any plate,
    negatives the negative-control wells of its own plate.

    Args:
      profiles: corrected wells.
      by: the column of the perturbation; wells where it is "" are left out.
      within: columns of strata, such as a set of experiments: positives and negatives are of the
        query's stratum, and a perturbation in two strata makes two groups.
      similarity: "cosine", or "euclidean" for 1/(1 + distance), which suits one or two features.
      schema: names the columns and the controls.
      rule, null_size, seed, q: see `group_significance`.

    Returns:
      One group per perturbation (and stratum); its columns start with `by` and `within`.

    Raises:
      InputError: no controls, or treated wells on a plate (of their stratum) without controls.
    """
    schema = schema or ColumnSchema()
    controls = profiles.controls(schema.controls)
    labels = profiles.column(by).to_numpy(dtype=object)
    strata = [profiles.column(name).to_numpy(dtype=object) for name in within]
    plates = profiles.batches("plate", schema)
    for values in strata:
        plates = np.asarray(plates + " in " + values)
    treated = np.flatnonzero(~controls & (labels != ""))
    similar = _Similarity(profiles.features, similarity)
    members = pd.Series(treated).groupby([labels[treated], *[s[treated] for s in strata]])
    negatives: dict[str, np.ndarray] = {}
    for plate in sorted(set(plates[treated])):
        negatives[plate] = np.flatnonzero(controls & (plates == plate))
        if not len(negatives[plate]):
            raise InputError(
                f"plate {plate} has treated wells but no negative control; drop it or name the "
                "controls with --controls."
            )
    scores = []
    for _, rows in members:
        wells = rows.to_numpy()
        if len(wells) < 2:
            continue
        mates = similar(wells, wells)
        for i, well in enumerate(wells):
            against = np.sort(similar(wells[i : i + 1], negatives[plates[well]])[0])
            ap = average_precision(np.delete(mates[i], i), against)
            scores.append((int(well), ap, len(wells) - 1, len(against)))
    queries = pd.DataFrame(scores, columns=["row", "ap", "positives", "negatives"])
    for name in (by, *within):
        queries[name] = profiles.metadata[name].to_numpy(dtype=object)[queries["row"]]
    if queries.empty:
        return _nothing((by, *within), "no perturbation has two replicates")
    table = group_significance(
        queries, [by, *within], rule=rule, null_size=null_size, seed=seed, q=q
    )
    return Retrieval(float(table["retrieved"].mean()), table, queries)


def fraction_over_seeds(
    result: Retrieval,
    by: str | Sequence[str],
    *,
    rule: str = "copairs",
    null_size: int = 10_000,
    seed: int = 0,
    seeds: int = 3,
    q: float = 0.05,
) -> tuple[float, float]:
    """The lowest and highest fraction retrieved over seeds of the null.

    Args:
      result: with the seed `seed`.
      by: its groups' columns.
      rule, null_size, q: what it was made with, see `group_significance`.
      seed, seeds: the seeds are `seed`, `seed` + 1, …, in all `seeds`.
    """
    fractions = [result.fraction]
    if not result.queries.empty and is_sampled(result.queries, rule):
        for other in range(seed + 1, seed + seeds):
            table = group_significance(
                result.queries, by, rule=rule, null_size=null_size, seed=other, q=q
            )
            fractions.append(float(table["retrieved"].mean()))
    return min(fractions), max(fractions)


class _Similarity:
    """Similarities between rows by their numbers."""

    def __init__(self, features: np.ndarray, name: str) -> None:
        if name not in SIMILARITIES:
            raise InputError(
                f"there is no similarity '{name}'; choose {' or '.join(SIMILARITIES)}."
            )
        self.cosine = name == "cosine"
        self.rows = l2_normalize(features) if self.cosine else features.astype(np.float64)

    def __call__(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        if self.cosine:
            return np.asarray(self.rows[left] @ np.ascontiguousarray(self.rows[right].T))
        from scipy.spatial.distance import cdist

        return np.asarray(1 / (1 + cdist(self.rows[left], self.rows[right])))


def consensus(profiles: Profiles, by: str = "Metadata_Perturbation") -> Profiles:
    """The median profile of every value of `by`, in sorted order; rows where it is "" go."""
    labels = profiles.column(by).to_numpy(dtype=object)
    kept = profiles.take(labels != "")
    codes, names = pd.factorize(kept.metadata[by].to_numpy(dtype=object), sort=True)
    if not len(names):
        raise InputError(f"no row has a value in {by}: there is nothing to take the median of.")
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    features = np.stack([np.median(kept.features[p], axis=0) for p in parts])
    first = np.array([p[0] for p in parts])
    return Profiles(
        kept.metadata.iloc[first].reset_index(drop=True), features.astype(np.float32), kept.names
    )


def sibling_retrieval(
    profiles: Profiles,
    retrieved: Sequence[str],
    *,
    by: str = "Metadata_Perturbation",
    siblings: str = "Metadata_Gene",
    absolute: bool = False,
    drop_without_sibling: bool = False,
    similarity: str = "cosine",
    schema: ColumnSchema | None = None,
    rule: str = "copairs",
    null_size: int = 10_000,
    seed: int = 0,
    q: float = 0.05,
) -> Retrieval:
    """Which genes' perturbations (guides of one gene, compounds of one target) find each other.

    Controls are dropped; of what is left, the median per perturbation is taken, and only
    perturbations that were themselves retrieved are kept. A perturbation may have several
    sibling labels, separated by "|" (a compound's `target_list`). Positives share the label,
    negatives share no label with the query; labels with fewer than two perturbations are out.

    Args:
      profiles: corrected wells.
      retrieved: the perturbations that passed `perturbation_retrieval`.
      by: the column of the perturbation.
      siblings: the column of the sibling labels.
      absolute: rank by |cosine|: compounds of one target may act in opposite ways.
      drop_without_sibling: leave perturbations without a surviving sibling out of the rankings
        too, where they would be negatives (published for guides, not for compounds).
      similarity, schema, rule, null_size, seed, q: as in `perturbation_retrieval`.

    Returns:
      One group per label. When no siblings survive, the fraction is NaN and `note` says why.
    """
    schema = schema or ColumnSchema()
    wells = profiles.take(~profiles.controls(schema.controls))
    wells = wells.take(wells.column(by).isin(list(retrieved)).to_numpy(dtype=bool))
    if not len(wells):
        return _nothing(("label",), "no perturbation was retrieved, so there are no siblings")
    medians = consensus(wells, by)
    names = medians.metadata[by].to_numpy(dtype=object)
    labels = [
        frozenset(p.strip() for p in str(v).split("|") if p.strip())
        for v in medians.column(siblings)
    ]
    every = sorted(set().union(*labels))
    holds = np.array([[label in own for label in every] for own in labels], bool)
    holds = holds.reshape(len(labels), len(every))
    if drop_without_sibling:
        related = (holds.astype(np.int64) @ holds.T.astype(np.int64)) > 0
        kept = np.flatnonzero(related.sum(axis=1) > 1)
        medians, names, holds = medians.take(kept), names[kept], holds[kept]
        if not len(kept):
            why = f"none of the {len(labels)} retrieved perturbations has a sibling among them"
            return _nothing(("label",), why)
    queries = rank_by_labels(medians.features, holds, absolute=absolute, similarity=similarity)
    if queries.empty:
        why = f"none of the {len(medians)} retrieved perturbations has a sibling among them"
        return _nothing(("label",), why)
    rows = queries["row"].to_numpy()
    queries = queries.assign(
        **{by: names[rows].astype(str)}, label=np.array(every, dtype=object)[queries["label"]]
    ).drop(columns="row")
    table = group_significance(queries, "label", rule=rule, null_size=null_size, seed=seed, q=q)
    return Retrieval(float(table["retrieved"].mean()), table, queries)


def rank_by_labels(
    features: Float32[np.ndarray, "rows features"],
    holds: Bool[np.ndarray, "rows labels"],
    *,
    absolute: bool = False,
    similarity: str = "cosine",
) -> pd.DataFrame:
    """AP of every row for each of its labels; a row may have several.

    The positives of a query (row, label) are the other rows with the label; its negatives are the
    rows that share no label with it.

    Args:
      features: one row per perturbation.
      holds: which row has which label.
      absolute: rank by the absolute value of the similarity.
      similarity: see `perturbation_retrieval`.

    Returns:
      One row per query that has positives and negatives: row and label (as numbers), ap,
      positives, negatives (their counts).
    """
    every = np.arange(len(features))
    similarities = _Similarity(features, similarity)(every, every)
    if absolute:
        similarities = np.abs(similarities)
    related = (holds.astype(np.float32) @ holds.T.astype(np.float32)) > 0
    scores = []
    for i in every:
        unrelated = ~related[i]
        unrelated[i] = False
        if not holds[i].any() or not unrelated.any():
            continue
        against = np.sort(similarities[i, unrelated])
        for label in np.flatnonzero(holds[i]):
            mates = holds[:, label].copy()
            mates[i] = False
            if mates.any():
                ap = average_precision(similarities[i, mates], against)
                scores.append((int(i), int(label), ap, int(mates.sum()), len(against)))
    return pd.DataFrame(scores, columns=["row", "label", "ap", "positives", "negatives"])


def _nothing(by: Sequence[str], why: str) -> Retrieval:
    groups = pd.DataFrame(columns=[*by, "queries", "map", "nap", "p", "q", "retrieved"])
    queries = pd.DataFrame(columns=["ap", "positives", "negatives", *by])
    return Retrieval(float("nan"), groups, queries, why)
