"""Do wells find each other by their position or their plate, where the perturbations differ?

JUMP-lite's checks of batch effects: retrieval in which positives share the well position, or the
plate, but not the perturbation. The lower, the better; 0 is what unrelated wells give.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import average_precision, group_significance
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.retrieval import Retrieval

CHECKS = ("position", "plate")
WELLS_PER_PLATE_BIN, WELLS_PER_BIN = 15, 25


def leakage(
    profiles: Profiles,
    check: str,
    *,
    by: str = "Metadata_Perturbation",
    within: Sequence[str] = (),
    schema: ColumnSchema | None = None,
    rule: str = "conservative",
    null_size: int = 10_000,
    permuted: bool = False,
    seed: int = 0,
) -> Retrieval:
    """Retrieval of treated wells by their position or their plate.

    "position": positives have the query's well position on another plate, and another
    perturbation; negatives stand elsewhere on the query's plate, have another perturbation, and
    are in the same random bin. Positions on one plate alone are left out.

    "plate": positives stand on the query's plate, have another perturbation, and are in the same
    random bin; negatives have another plate, position and perturbation, and are in the same
    random bin of all wells. It shows what plates have in common, and p is small where they differ.

    Bins of about 15 wells (of a plate) and 25 (of all) bound the numbers of positives and
    negatives, as in JUMP-lite; the draws are not the same as there.

    Args:
      profiles: corrected wells; controls are left out.
      check: "position" or "plate".
      by: the column of the perturbation.
      within: columns of strata.
      schema: names the columns and the controls.
      rule, null_size: see `group_significance`.
      permuted: exchange the positions within plates ("position"), or the plates between the wells
        of a stratum ("plate"), first: the value without such effects.
      seed: of the bins, the null and the permutation.

    Returns:
      One group per position or plate (and stratum).

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
    positions = wells.column(schema.well).to_numpy(dtype=str)
    plates = wells.batches("plate", schema).astype(str)
    perturbations = wells.metadata[by].to_numpy(dtype=str)
    unit = l2_normalize(wells.features)
    rng = np.random.default_rng(seed)
    score, label = {
        "position": (_by_position, schema.well),
        "plate": (_by_plate, schema.plate),
    }[check]
    parts = []
    for rows in _strata(wells.metadata, within):
        own_plates, own_positions = plates[rows], positions[rows]
        if permuted and check == "position":
            order = np.lexsort((rng.random(len(rows)), own_plates))
            shuffled = np.empty_like(own_positions)
            shuffled[np.argsort(own_plates, kind="stable")] = own_positions[order]
            own_positions = shuffled
        elif permuted:
            own_plates = rng.permutation(own_plates)
        part = score(unit[rows], perturbations[rows], own_plates, own_positions, rng)
        part[label] = (own_positions if check == "position" else own_plates)[part["row"]]
        for name in within:
            part[name] = wells.metadata[name].iloc[rows[0]]
        parts.append(part.assign(row=rows[part["row"]]))
    queries = pd.concat(parts, ignore_index=True)
    groups = group_significance(
        queries, [label, *within], rule=rule, null_size=null_size, seed=seed
    )
    note = ""
    if queries.empty:
        note = f"no two wells of other perturbations share a {check}"
    return Retrieval(float(groups["retrieved"].astype(float).mean()), groups, queries, note)


def _by_position(
    unit: np.ndarray,
    perturbations: np.ndarray,
    plates: np.ndarray,
    positions: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """AP of every row whose position is on two plates: `row`, ap, positives, negatives."""
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
    return _rank(unit, queries)


def _by_plate(
    unit: np.ndarray,
    perturbations: np.ndarray,
    plates: np.ndarray,
    positions: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """AP of every row, by its plate: `row`, ap, positives, negatives."""
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
    return _rank(unit, queries)


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
