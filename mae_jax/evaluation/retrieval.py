"""Perturbation and sibling retrieval (section 5.3, Tables 4, 8 and 9)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import average_precision, group_significance
from mae_jax.evaluation.profiles import ColumnSchema, Profiles


@dataclass(frozen=True)
class Retrieval:
    """What was retrieved.

    Attributes:
      fraction: retrieved groups over tested groups; NaN when none could be tested.
      groups: one row per group: its label, queries, map, p, q, retrieved.
      queries: one row per query: ap, positives, negatives and its metadata.
      note: why nothing could be tested, or "".
    """

    fraction: float
    groups: pd.DataFrame
    queries: pd.DataFrame
    note: str = ""


def perturbation_retrieval(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    rule: str = "copairs",
    null_size: int = 10_000,
    seed: int = 0,
    q: float = 0.05,
) -> Retrieval:
    """Which perturbations' replicates find each other among the negative controls of their plate.

    For each treated well: positives are the other wells of the same perturbation on any plate,
    negatives the negative-control wells of its own plate, similarity is the cosine.

    Args:
      profiles: corrected wells.
      by: the column of the perturbation; wells where it is "" are left out.
      schema: names the columns and the controls.
      rule, null_size, seed, q: see `group_significance`.

    Raises:
      InputError: no controls, or treated wells on a plate without controls.
    """
    schema = schema or ColumnSchema()
    controls = profiles.controls(schema.controls)
    labels = profiles.column(by).to_numpy(dtype=object)
    plates = profiles.batches("plate", schema)
    rows = l2_normalize(profiles.features)
    treated = np.flatnonzero(~controls & (labels != ""))
    groups: dict[str, np.ndarray] = {
        str(k): np.asarray(v) for k, v in pd.Series(treated).groupby(labels[treated]).groups.items()
    }
    members = {k: treated[v] for k, v in groups.items()}
    negatives: dict[str, np.ndarray] = {}
    for plate in sorted(set(plates[treated])):
        own = rows[controls & (plates == plate)]
        if not len(own):
            raise InputError(
                f"plate {plate} has treated wells but no negative control; drop it or name the "
                "controls with --controls."
            )
        negatives[plate] = np.ascontiguousarray(own.T)
    scores = []
    for wells in members.values():
        if len(wells) < 2:
            continue
        gram = rows[wells] @ np.ascontiguousarray(rows[wells].T)
        for i, well in enumerate(wells):
            against = np.sort(rows[well] @ negatives[plates[well]])
            ap = average_precision(np.delete(gram[i], i), against)
            scores.append((int(well), ap, len(wells) - 1, len(against)))
    queries = pd.DataFrame(scores, columns=["row", "ap", "positives", "negatives"])
    queries[by] = labels[queries["row"].to_numpy(dtype=int)]
    if queries.empty:
        return _nothing(by, "no perturbation has two replicates")
    table = group_significance(queries, by, rule=rule, null_size=null_size, seed=seed, q=q)
    return Retrieval(float(table["retrieved"].mean()), table, queries)


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
      schema, rule, null_size, seed, q: as in `perturbation_retrieval`.

    Returns:
      One group per label. When no siblings survive, the fraction is NaN and `note` says why.
    """
    schema = schema or ColumnSchema()
    wells = profiles.take(~profiles.controls(schema.controls))
    wells = wells.take(wells.column(by).isin(list(retrieved)).to_numpy(dtype=bool))
    if not len(wells):
        return _nothing("label", "no perturbation was retrieved, so there are no siblings")
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
            return _nothing("label", why)
    rows = l2_normalize(medians.features)
    cosines = rows @ np.ascontiguousarray(rows.T)
    if absolute:
        cosines = np.abs(cosines)
    related = (holds.astype(np.int64) @ holds.T.astype(np.int64)) > 0
    scores = []
    for i in range(len(rows)):
        unrelated = ~related[i]
        unrelated[i] = False
        if not holds[i].any() or not unrelated.any():
            continue
        against = np.sort(cosines[i, unrelated])
        for at in np.flatnonzero(holds[i]):
            mates = holds[:, at].copy()
            mates[i] = False
            if mates.any():
                ap = average_precision(cosines[i, mates], against)
                scores.append((str(names[i]), every[at], ap, int(mates.sum()), len(against)))
    queries = pd.DataFrame(scores, columns=[by, "label", "ap", "positives", "negatives"])
    if queries.empty:
        why = f"none of the {len(rows)} retrieved perturbations has a sibling among them"
        return _nothing("label", why)
    table = group_significance(queries, "label", rule=rule, null_size=null_size, seed=seed, q=q)
    return Retrieval(float(table["retrieved"].mean()), table, queries)


def _nothing(by: str, why: str) -> Retrieval:
    groups = pd.DataFrame(columns=[by, "queries", "map", "p", "q", "retrieved"])
    queries = pd.DataFrame(columns=["ap", "positives", "negatives", by])
    return Retrieval(float("nan"), groups, queries, why)
