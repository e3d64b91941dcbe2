"""How well batches are mixed: neighbors, iLISI, kBET, silhouettes, BRAS, as in scib-metrics.

Each score is 1 where batches are mixed as well as can be, but few reach it: iLISI with many batches
stays near 0, and where plates hold different compounds they should not mix at all. So the value
that permuted batches give stands beside each.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.neighbors import Neighbors, nearest_neighbors

Codes = Int[np.ndarray, " rows"]


def neighbor_mixing(neighbors: Neighbors, batches: Codes) -> float:
    """Share of a row's neighbors from another batch, mean over rows."""
    return float((batches[neighbors.indices] != batches[:, None]).mean())


def lisi(
    neighbors: Neighbors, labels: Codes, perplexity: float | None = None
) -> Float[np.ndarray, " rows"]:
    """Local inverse Simpson index of every row: the effective number of labels around it.

    1/Σ_b (Σ_{j∈b} p_j)² with p_j ∝ exp(−β d_j) over the neighbors, β such that the entropy of p is
    log(perplexity), by bisection.

    Args:
      neighbors: with their distances.
      labels: as numbers from 0.
      perplexity: None for floor(k/3).
    """
    distances, found = neighbors.distances, labels[neighbors.indices]
    n, k = distances.shape
    target = np.log(float(k // 3) if perplexity is None else perplexity)
    beta, low, high = np.ones(n), np.zeros(n), np.full(n, np.inf)
    nearest = distances[:, :1]  # subtracted against underflow; it cancels
    for _ in range(50):
        weights = np.exp(-(distances - nearest) * beta[:, None])
        total = weights.sum(axis=1)
        mean = (distances * weights).sum(axis=1) / total
        entropy = np.log(total) - nearest[:, 0] * beta + beta * mean
        error = entropy - target
        open_ = np.abs(error) >= 1e-5
        if not open_.any():
            break
        wide = open_ & (error > 0)
        narrow = open_ & (error <= 0)
        low[wide], high[narrow] = beta[wide], beta[narrow]
        beta = np.where(
            open_, np.where(np.isinf(high), beta * 2, (low + np.minimum(high, 1e300)) / 2), beta
        )
    weights /= total[:, None]
    shares = np.zeros((n, int(labels.max()) + 1))
    np.add.at(shares, (np.arange(n)[:, None], found), weights)
    return np.asarray(1 / (shares**2).sum(axis=1))


def ilisi(neighbors: Neighbors, batches: Codes, perplexity: float | None = None) -> float:
    """(median LISI of batches − 1)/(batches − 1): 1 where all batches surround every row."""
    count = len(np.unique(batches))
    return float((np.median(lisi(neighbors, batches, perplexity)) - 1) / (count - 1))


def kbet(neighbors: Neighbors, batches: Codes, alpha: float = 0.05) -> float:
    """kBET's acceptance rate: share of rows whose neighbors have batches as all rows have them.

    χ² = Σ_b (o_b − k f_b)²/(k f_b) with B − 1 degrees of freedom, o_b the neighbors in batch b and
    f_b its share of all rows; accepted if p ≥ `alpha`.
    """
    from scipy.stats import chi2

    k = neighbors.indices.shape[1]
    counts = np.bincount(batches)
    found = batches[neighbors.indices]
    observed = np.stack([(found == b).sum(axis=1) for b in range(len(counts))], axis=1)
    expected = k * counts / counts.sum()
    statistic = ((observed - expected) ** 2 / expected).sum(axis=1)
    return float((chi2.sf(statistic, len(counts) - 1) >= alpha).mean())


def silhouette_labels(features: Float[np.ndarray, "rows features"], labels: Codes) -> float:
    """(mean silhouette of the labels + 1)/2, by cosine distances: 1 where labels lie apart."""
    from sklearn.metrics import silhouette_score

    return float((silhouette_score(l2_normalize(features), labels, metric="cosine") + 1) / 2)


def silhouette_batches(
    features: Float[np.ndarray, "rows features"],
    labels: Codes,
    batches: Codes,
    *,
    nearest: bool = False,
) -> float:
    """1 − |silhouette of the batches| within each label, mean over rows and then over labels.

    By cosine distances. `nearest` compares with the nearest other batch (scib's batch silhouette),
    which calls batches mixed where each has one other nearby; else with the mean distance to rows
    of all other batches (BRAS). Labels with one batch, or one row per batch, are left out.

    Returns:
      The score; NaN where no label has batches to compare.
    """
    rows = l2_normalize(features).astype(np.float64)
    means = []
    order = np.argsort(labels, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        _, codes, counts = np.unique(batches[own], return_inverse=True, return_counts=True)
        if len(counts) in (1, len(own)):
            continue
        distances = 1 - rows[own] @ rows[own].T
        np.fill_diagonal(distances, 0)
        sums = distances @ np.eye(len(counts))[codes]  # to each batch
        at = np.arange(len(own))
        size = counts[codes]
        with np.errstate(invalid="ignore", divide="ignore"):
            within = sums[at, codes] / (size - 1)
            if nearest:
                others = sums / counts
                others[at, codes] = np.inf
                between = others.min(axis=1)
            else:
                between = (sums.sum(axis=1) - sums[at, codes]) / (len(own) - size)
            values = (between - within) / np.maximum(within, between)
        means.append(float((1 - np.abs(np.nan_to_num(values))).mean()))
    return float(np.mean(means)) if means else float("nan")


def batch_mixing(
    features: Float[np.ndarray, "rows features"],
    labels: np.ndarray,
    batches: np.ndarray,
    *,
    k: int = 90,
    permutations: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """All scores of this module, and what permuted batches give.

    Args:
      features: corrected wells.
      labels: what each well holds, such as its perturbation.
      batches: the batch of each well.
      k: neighbors by cosine; the perplexity of iLISI is a third of it.
      permutations: batches are exchanged between all wells; for the scores within labels, between
        the wells of a label; for the silhouette of labels, labels within batches.
      seed: of the permutations.

    Returns:
      One row per score: score, value, permuted, permuted_std (ddof 1).

    Raises:
      InputError: fewer than two batches.
    """
    names, codes = np.unique(batches.astype(str), return_inverse=True)
    label_codes = np.unique(labels.astype(str), return_inverse=True)[1]
    if len(names) < 2:
        raise InputError("there is a single batch, so there is nothing to mix.")
    neighbors = nearest_neighbors(features, k)
    rng = np.random.default_rng(seed)

    def anywhere() -> Codes:
        return rng.permutation(codes)

    def within(groups: Codes, values: Codes) -> Codes:
        out = np.empty_like(values)
        out[np.argsort(groups, kind="stable")] = values[
            np.lexsort((rng.random(len(groups)), groups))
        ]
        return out

    def same_label() -> Codes:
        return within(label_codes, codes)

    scores: dict[str, tuple[Callable[[Codes], float], Codes, Callable[[], Codes]]] = {
        "k-NN mixing": (lambda b: neighbor_mixing(neighbors, b), codes, anywhere),
        "iLISI": (lambda b: ilisi(neighbors, b), codes, anywhere),
        "kBET": (lambda b: kbet(neighbors, b), codes, anywhere),
        "BRAS": (lambda b: silhouette_batches(features, label_codes, b), codes, same_label),
        "silhouette of batches": (
            lambda b: silhouette_batches(features, label_codes, b, nearest=True),
            codes,
            same_label,
        ),
    }
    if 1 < label_codes.max() + 1 < len(codes):
        scores["silhouette of labels"] = (
            lambda own: silhouette_labels(features, own),
            label_codes,
            lambda: within(codes, label_codes),
        )
    rows = []
    for name, (score, own, permute) in scores.items():
        null = np.array([score(permute()) for _ in range(permutations)])
        spread = float(null.std(ddof=1)) if permutations > 1 else float("nan")
        mean = float(null.mean()) if permutations else float("nan")
        rows.append((name, score(own), mean, spread))
    return pd.DataFrame(rows, columns=["score", "value", "permuted", "permuted_std"])
