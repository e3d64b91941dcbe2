"""Uncertainty of averages over pairs of genes, where pairs that share a gene are not independent.

A gene's embedding enters every pair of that gene: when it is poor, all of them are missed
together. Counting pairs as independent makes intervals too narrow (CORUM: by half). The variance
here is the dyadic cluster-robust one (Fafchamps and Gubert 2007; Aronow, Samii and Assenova
2015): residuals of pairs that share a gene may be correlated in any way, others are independent.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def pair_variance(values: Float[np.ndarray, " pairs"], ends: Int[np.ndarray, "pairs 2"]) -> float:
    """The variance of the mean of `values` over pairs of genes.

    With the residuals e of N pairs and S_g their sum over the pairs of gene g, it is
    (Σ_g S_g² − Σ e²) / N²; never less than for independent pairs, Σ e² / N².

    Args:
      values: one number per pair.
      ends: the two genes of each pair, as numbers from 0.
    """
    residuals = values - values.mean()
    genes = int(ends.max(initial=0)) + 1
    sums = np.bincount(ends[:, 0], residuals, genes) + np.bincount(ends[:, 1], residuals, genes)
    own = float((residuals**2).sum())
    return max(float((sums**2).sum()) - own, own) / len(values) ** 2


def degrees_of_freedom(ends: Int[np.ndarray, "pairs 2"]) -> float:
    """How many independent pairs the genes could make up: half the effective number, less one.

    The effective number of genes, (Σ d_g)² / Σ d_g² of their numbers of pairs d_g, counts a few
    genes with most of the pairs as few.
    """
    pairs_of = np.bincount(ends.ravel()).astype(np.float64)
    return max(float(pairs_of.sum() ** 2 / (pairs_of**2).sum()) / 2 - 1, 1.0)


def clustered_interval(
    values: Float[np.ndarray, " rows"], clusters: np.ndarray, confidence: float = 0.95
) -> Interval:
    """The interval of a mean over rows that are dependent within clusters.

    With S_c the sum of the residuals of cluster c, the variance of the mean of N rows in G
    clusters is G/(G − 1) Σ_c S_c² / N², and Student's t has G − 1 degrees of freedom.

    Args:
      values: one number per row, such as 1 for a treatment that is predicted right.
      clusters: the cluster of each row, such as its compound.
      confidence: of the interval.

    Returns:
      The interval; NaN with fewer than two clusters.
    """
    from scipy.stats import t

    names, codes = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return Interval(float("nan"), float("nan"))
    mean = float(values.mean())
    sums = np.bincount(codes, values - mean)
    error = np.sqrt(len(names) / (len(names) - 1) * float((sums**2).sum())) / len(values)
    half = float(t.ppf((1 + confidence) / 2, len(names) - 1)) * error
    return Interval(mean - half, mean + half)


def share_interval(
    hits: Float[np.ndarray, " pairs"], ends: Int[np.ndarray, "pairs 2"], confidence: float = 0.95
) -> Interval:
    """The interval of a share of pairs: Wilson's, with the effective number of pairs.

    The effective number is the one that, were pairs independent, would give `pair_variance`. For
    shares of 0 and 1, where there is no variance, it is the number of pairs that share no gene
    at most: half the number of genes.
    """
    from scipy.stats import t

    share = float(hits.mean())
    variance = pair_variance(hits, ends)
    if variance > 0:
        size = share * (1 - share) / variance
    else:
        size = min(len(hits), max(len(np.unique(ends)) / 2, 1))
    z = float(t.ppf((1 + confidence) / 2, degrees_of_freedom(ends)))
    center = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2))
    return Interval(max(float(center - half), 0.0), min(float(center + half), 1.0))


def difference_interval(
    differences: Float[np.ndarray, " pairs"],
    ends: Int[np.ndarray, "pairs 2"],
    confidence: float = 0.95,
) -> tuple[Interval, float]:
    """The interval of a mean difference over pairs, and its two-sided p (Student's t)."""
    from scipy.stats import t

    mean, error = float(differences.mean()), float(np.sqrt(pair_variance(differences, ends)))
    if error == 0:
        return Interval(mean, mean), 1.0 if mean == 0 else 0.0
    freedom = degrees_of_freedom(ends)
    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return Interval(mean - half, mean + half), float(2 * t.sf(abs(mean) / error, freedom))
