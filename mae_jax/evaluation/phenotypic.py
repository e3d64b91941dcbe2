"""Phenotypic activity and phenotypic consistency, as JUMP-lite scores them: normalized AP.

Activity asks whether a perturbation's replicates find each other among the negative controls of
their plates (`perturbation_retrieval`). Consistency asks whether perturbations of one target find
each other among perturbations of other targets; a perturbation may have several targets.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.average_precision import group_significance
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.retrieval import Retrieval, consensus, rank_by_labels

UNKNOWN = "unknown"  # the word of a target that is not known


def summarize_nap(groups: pd.DataFrame, within: Sequence[str] = ()) -> pd.DataFrame:
    """Means over groups of perturbations or targets: one row per stratum, and one for "all".

    Args:
      groups: `Retrieval.groups`: nap and retrieved, and the columns `within`.
      within: the columns of the strata.

    Returns:
      stratum, groups, nap (unweighted mean), nap_clipped (negative ones count as 0), nap_median,
      significant (share with q < 0.05).
    """
    parts = [("all", groups)]
    if within:
        strata = groups[list(within)].astype(str).agg("/".join, axis=1)
        parts = [*groups.groupby(strata), *parts]
    rows = []
    for name, part in parts:
        nap = part["nap"].astype(float)
        rows.append(
            {
                "stratum": name,
                "groups": len(part),
                "nap": nap.mean(),
                "nap_clipped": nap.clip(lower=0).mean(),
                "nap_median": nap.median(),
                "significant": part["retrieved"].astype(float).mean(),
            }
        )
    return pd.DataFrame(rows)


def phenotypic_consistency(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    targets: str = "Metadata_Gene",
    within: Sequence[str] = (),
    absolute: bool = False,
    similarity: str = "cosine",
    min_perturbations: int = 3,
    max_targets: int = 50,
    schema: ColumnSchema | None = None,
    rule: str = "conservative",
    null_size: int = 10_000,
    seed: int = 0,
    q: float = 0.05,
) -> Retrieval:
    """Do perturbations of one target find each other among those of other targets?

    Controls are dropped, and the median is taken per perturbation, targets and stratum. A query
    is a perturbation and one of its targets; positives share that target, negatives share no
    target that was kept, all within the query's stratum. The null is that of unrelated profiles:
    where perturbations of one target are similar for other reasons than the target (plates,
    positions), p is small too.

    Args:
      profiles: corrected wells.
      by: the column of the perturbation.
      targets: the column of its targets, separated by "|"; "" and "unknown" are no targets.
      within: columns of strata.
      absolute: rank by |similarity|: compounds of one target may act in opposite ways.
      similarity: see `perturbation_retrieval`.
      min_perturbations: targets with fewer perturbations, over all strata, are left out.
      max_targets: perturbations with more targets are left out.
      schema: names the columns and the controls.
      rule, null_size, seed, q: see `group_significance`; JUMP-lite's rule is "copairs".

    Returns:
      One group per target (and stratum): "label" and `within`. `queries` names the perturbation
      of each query. When no target can be tested, the fraction is NaN and `note` says why.

    Raises:
      InputError: a column that does not exist.
    """
    schema = schema or ColumnSchema()
    wells = profiles
    if schema.controls != "none":
        wells = profiles.take(~profiles.controls(schema.controls))
    wells = wells.take((wells.column(by) != "").to_numpy(dtype=bool))
    wells.column(targets)
    key = [by, targets, *within]
    joined = wells.metadata[[*key]].astype(str).agg("\0".join, axis=1)
    medians = consensus(
        Profiles(wells.metadata.assign(_unit=joined), wells.features, wells.names), "_unit"
    )
    names = medians.metadata[by].to_numpy(dtype=object)
    held = [split_targets(value) for value in medians.metadata[targets]]
    held = [own if len(own) <= max_targets else frozenset() for own in held]
    pairs = {(name, label) for name, own in zip(names, held, strict=True) for label in own}
    counts = pd.Series([label for _, label in pairs], dtype=object).value_counts()
    every = sorted(counts.index[counts >= min_perturbations])
    holds = np.array([[label in own for label in every] for own in held], bool)
    holds = holds.reshape(len(held), len(every))
    strata = pd.MultiIndex.from_frame(medians.metadata[list(within)]) if within else None
    codes = np.zeros(len(medians), np.int64) if strata is None else pd.factorize(strata)[0]
    parts = []
    for code in np.unique(codes):
        rows = np.flatnonzero((codes == code) & holds.any(axis=1))
        part = rank_by_labels(
            medians.features[rows], holds[rows], absolute=absolute, similarity=similarity
        )
        own = rows[part["row"].to_numpy(dtype=int)]
        part["label"] = np.array(every, dtype=object)[part["label"].to_numpy(dtype=int)]
        for name in (by, *within):
            part[name] = medians.metadata[name].to_numpy(dtype=object)[own]
        parts.append(part.drop(columns="row"))
    queries = pd.concat(parts, ignore_index=True)
    table = group_significance(
        queries, ["label", *within], rule=rule, null_size=null_size, seed=seed, q=q
    )
    if queries.empty:
        note = f"no target has {max(min_perturbations, 2)} perturbations among those of others"
        return Retrieval(float("nan"), table, queries, note)
    return Retrieval(float(table["retrieved"].mean()), table, queries)


def split_targets(value: object) -> frozenset[str]:
    """The targets in a cell: separated by "|", without blanks and "unknown"."""
    parts = (part.strip() for part in str(value).split("|"))
    return frozenset(part for part in parts if part and part.lower() != UNKNOWN)


def by_perturbation(
    retrieval: Retrieval,
    by: str,
    within: Sequence[str] = (),
    *,
    rule: str = "conservative",
    null_size: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per perturbation: perturbation, n, score (mean normalized AP), p, q, map, strata.

    n counts its queries: replicates, or targets. p and q are those of `group_significance` with
    the perturbation (and stratum) as the group.
    """
    if by not in retrieval.queries:
        raise InputError(f"the queries have no column {by}, so they cannot be grouped by it.")
    columns = [by, *within]
    table = retrieval.groups
    if by not in table:
        table = group_significance(
            retrieval.queries, columns, rule=rule, null_size=null_size, seed=seed
        )
    renamed = table.rename(columns={by: "perturbation", "queries": "n", "nap": "score"})
    return renamed[["perturbation", "n", "score", "p", "q", "map", *within]]
