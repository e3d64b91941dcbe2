"""Do wells find each other by their position or their plate, where the perturbations differ?

JUMP-lite's checks of batch effects: retrieval in which positives share the well position, or the
plate, but not the perturbation. The lower, the better; 0 is what unrelated wells give.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import (
    average_precision,
    benjamini_hochberg,
    normalized_average_precision,
)
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

CHECKS = ("position", "plate")
WELLS_PER_PLATE_BIN, WELLS_PER_BIN = 15, 25


@dataclass(frozen=True)
class Leakage:
    """What positions or plates have in common.

    Attributes:
      nap: normalized AP, mean over positions or plates.
      nap_permuted, nap_permuted_std: mean and standard deviation (ddof 1) over permutations of
        the same.
      groups: one row per position or plate (and stratum): queries, map, nap, p, q, retrieved.
      queries: one row per query: row (among the treated wells), ap, positives, negatives.
      note: why nothing could be tested, or "".
    """

    nap: float
    nap_permuted: float
    nap_permuted_std: float
    groups: pd.DataFrame
    queries: pd.DataFrame
    note: str = ""


def leakage(
    profiles: Profiles,
    check: str,
    *,
    by: str = "Metadata_Perturbation",
    within: Sequence[str] = (),
    schema: ColumnSchema | None = None,
    permutations: int = 20,
    seed: int = 0,
    q: float = 0.05,
) -> Leakage:
    """Retrieval of treated wells by their position or their plate.

    "position": positives have the query's well position on another plate, and another
    perturbation; negatives stand elsewhere on the query's plate, have another perturbation, and
    are in the same random bin. Positions on one plate alone are left out.

    "plate": positives stand on the query's plate, have another perturbation, and are in the same
    random bin; negatives have another plate, position and perturbation, and are in the same
    random bin of all wells.

    Bins of about 15 wells (of a plate) and 25 (of all) bound the numbers of positives and
    negatives, as in JUMP-lite; the draws are not the same as there. For p, positions are exchanged
    within plates, or plates between the wells of a stratum, and the normalized AP of a position or
    plate is compared with those of all positions or plates of all permutations:
    p = (1 + #{permuted ≥ value})/(1 + permuted); Benjamini–Hochberg. `group_significance` of
    `queries` with the rule "copairs" gives JUMP-lite's share of significant ones.

    Args:
      profiles: corrected wells; controls are left out.
      check: "position" or "plate".
      by: the column of the perturbation.
      within: columns of strata.
      schema: names the columns and the controls; "none": all wells are treated.
      permutations, seed, q: as above.

    Raises:
      InputError: an unknown check, or no column of wells or plates.
    """
    if check not in CHECKS:
        raise InputError(f"there is no check '{check}'; choose {' or '.join(CHECKS)}.")
    schema = schema or ColumnSchema()
    keep = (profiles.column(by) != "").to_numpy(dtype=bool)
    if schema.controls != "none":
        keep = keep & ~profiles.controls(schema.controls)
    wells = profiles.take(keep)
    label = schema.well if check == "position" else schema.plate
    table = _Wells(
        l2_normalize(wells.features),
        wells.metadata[by].to_numpy(dtype=str),
        wells.batches("plate", schema).astype(str),
        wells.column(schema.well).to_numpy(dtype=str),
    )
    strata = _strata(wells.metadata, within)
    rng = np.random.default_rng(seed)

    def score(permuted: bool) -> pd.DataFrame:
        parts = []
        for rows in strata:
            own = table.take(rows)
            if permuted:
                own = own.permuted(check, rng)
            part = (_by_position if check == "position" else _by_plate)(own, rng)
            part[label] = (own.positions if check == "position" else own.plates)[part["row"]]
            for name in within:
                part[name] = wells.metadata[name].iloc[rows[0]]
            parts.append(part.assign(row=rows[part["row"]]))
        return pd.concat(parts, ignore_index=True)

    keys = [label, *within]
    queries = score(permuted=False)
    groups = _group_means(queries, keys)
    nan = float("nan")
    if queries.empty:
        note = f"no two wells with unlike perturbations share a {check}"
        return Leakage(nan, nan, nan, groups.assign(p=[], q=[], retrieved=[]), queries, note)
    null = [_group_means(score(permuted=True), keys)["nap"].to_numpy() for _ in range(permutations)]
    values = np.sort(np.concatenate([*null, []]))
    reached = len(values) - np.searchsorted(values, groups["nap"].to_numpy() - 1e-9, side="left")
    p = (1 + reached) / (1 + len(values))
    groups = groups.assign(p=p, q=benjamini_hochberg(p))
    means = np.array([part.mean() for part in null if len(part)])
    return Leakage(
        float(groups["nap"].mean()),
        float(means.mean()) if len(means) else nan,
        float(means.std(ddof=1)) if len(means) > 1 else nan,
        groups.assign(retrieved=groups["q"] < q),
        queries,
    )


@dataclass(frozen=True)
class _Wells:
    """Treated wells: unit rows, and what each is."""

    unit: np.ndarray
    perturbations: np.ndarray
    plates: np.ndarray
    positions: np.ndarray

    def take(self, rows: np.ndarray) -> "_Wells":
        return _Wells(
            *(a[rows] for a in (self.unit, self.perturbations, self.plates, self.positions))
        )

    def permuted(self, check: str, rng: np.random.Generator) -> "_Wells":
        """Positions exchanged within plates, or plates between all wells."""
        if check == "plate":
            return replace(self, plates=rng.permutation(self.plates))
        positions = np.empty_like(self.positions)
        drawn = np.lexsort((rng.random(len(positions)), self.plates))
        positions[np.argsort(self.plates, kind="stable")] = self.positions[drawn]
        return replace(self, positions=positions)


def _group_means(queries: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row per group: its columns, queries, map, nap."""
    m, n = (queries[c].to_numpy(np.int64) for c in ("positives", "negatives"))
    nap = normalized_average_precision(queries["ap"].to_numpy(np.float64), m, n)
    grouped = queries.assign(nap=nap).groupby(list(keys), sort=True)
    return grouped.agg(
        queries=("ap", "size"), map=("ap", "mean"), nap=("nap", "mean")
    ).reset_index()


def _by_position(wells: _Wells, rng: np.random.Generator) -> pd.DataFrame:
    """AP of every row whose position is on two plates: `row`, ap, positives, negatives."""
    perturbations, plates, positions = wells.perturbations, wells.plates, wells.positions
    shared = pd.Series(plates).groupby(positions).transform("nunique").to_numpy() > 1
    kept = np.flatnonzero(shared)
    count = _bins(len(kept), len(np.unique(plates[kept])), WELLS_PER_PLATE_BIN)
    bins = rng.integers(0, count, len(kept))
    negatives_of = _members(plates[kept], bins)
    positives_of = _members(positions[kept])
    queries = []
    for i, row in enumerate(kept):
        positives = kept[positives_of[positions[row],]]
        positives = positives[
            (plates[positives] != plates[row]) & (perturbations[positives] != perturbations[row])
        ]
        negatives = kept[negatives_of[plates[row], bins[i]]]
        negatives = negatives[
            (positions[negatives] != positions[row])
            & (perturbations[negatives] != perturbations[row])
        ]
        queries.append((int(row), positives, negatives))
    return _rank(wells.unit, queries)


def _by_plate(wells: _Wells, rng: np.random.Generator) -> pd.DataFrame:
    """AP of every row, by its plate: `row`, ap, positives, negatives."""
    perturbations, plates, positions = wells.perturbations, wells.plates, wells.positions
    rows = np.arange(len(plates))
    near = rng.integers(0, _bins(len(rows), len(np.unique(plates)), WELLS_PER_PLATE_BIN), len(rows))
    far = rng.integers(0, _bins(len(rows), 1, WELLS_PER_BIN), len(rows))
    positives_of, negatives_of = _members(plates, near), _members(far)
    queries = []
    for row in rows:
        positives = positives_of[plates[row], near[row]]
        positives = positives[perturbations[positives] != perturbations[row]]
        negatives = negatives_of[far[row],]
        negatives = negatives[
            (plates[negatives] != plates[row])
            & (positions[negatives] != positions[row])
            & (perturbations[negatives] != perturbations[row])
        ]
        queries.append((int(row), positives, negatives))
    return _rank(wells.unit, queries)


def _bins(rows: int, plates: int, size: int) -> int:
    return max(2, int(rows / max(plates, 1) / size))


def _members(*keys: np.ndarray) -> dict[tuple[object, ...], np.ndarray]:
    """Row numbers by the values of the keys."""
    frame = pd.DataFrame(dict(enumerate(keys)))
    groups = frame.groupby(list(frame.columns), sort=False).indices.items()
    return {key if isinstance(key, tuple) else (key,): np.asarray(rows) for key, rows in groups}


def _rank(unit: np.ndarray, queries: Sequence[tuple[int, np.ndarray, np.ndarray]]) -> pd.DataFrame:
    scores = []
    for row, positives, negatives in queries:
        if len(positives) and len(negatives):
            ap = average_precision(
                unit[positives] @ unit[row], np.sort(unit[negatives] @ unit[row])
            )
            scores.append((row, ap, len(positives), len(negatives)))
    return pd.DataFrame(scores, columns=["row", "ap", "positives", "negatives"])


def _strata(metadata: pd.DataFrame, within: Sequence[str]) -> list[np.ndarray]:
    """The row numbers of each stratum."""
    if not within:
        return [np.arange(len(metadata))]
    groups = metadata.groupby(list(within), sort=True).indices.values()
    return [np.asarray(rows) for rows in groups]
