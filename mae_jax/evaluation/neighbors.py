"""Nearest neighbors of wells, and how often they have the same label."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import benjamini_hochberg
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

METRICS = ("cosine", "euclidean")
_BLOCK = 1 << 24  # distances held at a time


@dataclass(frozen=True)
class Neighbors:
    """The k nearest rows of every row, nearest first, without the row itself.

    Attributes:
      indices: (N, k) row numbers; −1 where fewer than k rows are allowed.
      distances: (N, k) cosine or Euclidean distances; infinity there.
    """

    indices: Int[np.ndarray, "rows k"]
    distances: Float[np.ndarray, "rows k"]


def nearest_neighbors(
    features: Float[np.ndarray, "rows features"],
    k: int,
    *,
    metric: str = "cosine",
    unlike: Int[np.ndarray, " rows"] | None = None,
) -> Neighbors:
    """The k nearest other rows, by exact search.

    Args:
      features: one row per well.
      k: how many; at most N − 1 are there.
      metric: "cosine" or "euclidean".
      unlike: rows with the same number here are no neighbors of each other.

    Raises:
      InputError: an unknown metric, or fewer than two rows.
    """
    if metric not in METRICS:
        raise InputError(f"there is no metric '{metric}'; choose {' or '.join(METRICS)}.")
    n = len(features)
    k = min(k, n - 1)
    if k < 1:
        raise InputError(f"neighbors need at least two wells and k of 1 or more, not {n} wells.")
    rows = features.astype(np.float64) if metric == "euclidean" else l2_normalize(features)
    columns = np.ascontiguousarray(rows.T)
    squares = (rows**2).sum(axis=1) if metric == "euclidean" else None
    indices, distances = np.empty((n, k), np.int64), np.empty((n, k))
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        own = np.arange(start, min(start + step, n))
        products = rows[own] @ columns
        if squares is None:
            block = 1 - products.astype(np.float64)
        else:
            block = np.sqrt(np.maximum(squares[own, None] + squares - 2 * products, 0))
        block[np.arange(len(own)), own] = np.inf
        if unlike is not None:
            block[unlike[own, None] == unlike] = np.inf
        first = np.argpartition(block, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(block, first, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        distances[own] = np.take_along_axis(values, order, axis=1)
        indices[own] = np.take_along_axis(first, order, axis=1)
    indices[np.isinf(distances)] = -1
    return Neighbors(indices, distances)


@dataclass(frozen=True)
class NeighborAccuracy:
    """How often the neighbors have a well's label.

    Attributes:
      accuracy: share of the wells whose label is predicted right.
      macro: mean over labels of their share.
      chance: mean accuracy with labels exchanged at random between wells of the same plate.
      p: (1 + #{permuted ≥ accuracy})/(1 + permutations).
      wells: how many were predicted.
      labels: one row per label: perturbation, n (wells), score (share right), p, q.
    """

    accuracy: float
    macro: float
    chance: float
    p: float
    wells: int
    labels: pd.DataFrame


def neighbor_accuracy(
    profiles: Profiles,
    *,
    label: str = "Metadata_Perturbation",
    k: int = 1,
    unlike: str | None = None,
    metric: str = "cosine",
    permutations: int = 1000,
    schema: ColumnSchema | None = None,
    seed: int = 0,
) -> NeighborAccuracy:
    """Predict each treated well's label by the majority of its k nearest treated wells.

    Of labels that come equally often among the neighbors, the one with the nearest is predicted.
    Wells whose label no other well has (that `unlike` allows) are not predicted, but are
    candidates. p respects plates, not positions: with one layout on all plates, neighbors that
    share a position share the label; exclude them with `unlike`.

    Args:
      profiles: corrected wells.
      label: column of the labels; controls and wells where it is "" are left out.
      k: neighbors that vote.
      unlike: "plate", "experiment" or a column: only wells of another one are candidates, so that
        what a plate has in common does not count.
      metric: "cosine" or "euclidean".
      permutations, seed: of the chance level.
      schema: names the columns and the controls; "none" keeps all wells.

    Raises:
      InputError: no label has two wells.
    """
    schema = schema or ColumnSchema()
    keep = (profiles.column(label) != "").to_numpy(dtype=bool)
    if schema.controls != "none":
        keep = keep & ~profiles.controls(schema.controls)
    wells = profiles.take(keep)
    names, codes = np.unique(wells.metadata[label].astype(str), return_inverse=True)
    groups = np.arange(len(wells))
    if unlike is not None:
        groups = np.unique(wells.batches(unlike, schema).astype(str), return_inverse=True)[1]
    pairs = pd.DataFrame({"label": codes, "group": groups}).drop_duplicates()
    tested = np.isin(codes, np.flatnonzero(np.bincount(pairs["label"], minlength=len(names)) > 1))
    if not tested.any():
        where = f" with different values of {unlike}" if unlike else ""
        raise InputError(f"no value of {label} has two wells{where}, so there is none to find.")
    found = nearest_neighbors(
        wells.features, k, metric=metric, unlike=None if unlike is None else groups
    )
    plates = np.zeros(len(wells), np.int64)
    if schema.plate in wells.metadata:
        plates = np.unique(wells.batches("plate", schema).astype(str), return_inverse=True)[1]
    right = _predict(found.indices, codes) == codes
    sizes = np.bincount(codes[tested], minlength=len(names))
    value = np.bincount(codes[tested], right[tested], len(names))
    at_least = np.zeros(len(names), np.int64)
    accuracies = np.empty(permutations)
    rng = np.random.default_rng(seed)
    by_plate = np.argsort(plates, kind="stable")
    for i in range(permutations):
        shuffled = np.empty_like(codes)
        shuffled[by_plate] = codes[np.lexsort((rng.random(len(codes)), plates))]
        hit = (_predict(found.indices, shuffled) == shuffled) & np.isin(shuffled, codes[tested])
        at_least += np.bincount(shuffled, hit, len(names)) >= value
        accuracies[i] = hit.sum() / tested.sum()
    accuracy = float(right[tested].mean())
    rows = np.flatnonzero(sizes)
    p = (1 + at_least[rows]) / (1 + permutations)
    table = pd.DataFrame(
        {
            "perturbation": names[rows],
            "n": sizes[rows],
            "score": value[rows] / sizes[rows],
            "p": p,
            "q": benjamini_hochberg(p),
        }
    )
    reached = int((accuracies >= accuracy - 1e-12).sum())
    return NeighborAccuracy(
        accuracy,
        float(table["score"].mean()),
        float(accuracies.mean()) if permutations else float("nan"),
        (1 + reached) / (1 + permutations),
        int(tested.sum()),
        table,
    )


def _predict(
    indices: Int[np.ndarray, "rows k"], codes: Int[np.ndarray, " rows"]
) -> Int[np.ndarray, " rows"]:
    """The most frequent label of the neighbors, of equally frequent ones the nearest; −1: none."""
    labels = np.where(indices >= 0, codes[indices], -1)
    if labels.shape[1] == 1:
        return np.asarray(labels[:, 0])
    votes = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    votes[labels < 0] = 0
    return np.asarray(np.take_along_axis(labels, votes.argmax(axis=1)[:, None], axis=1)[:, 0])
