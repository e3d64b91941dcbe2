"""Average precision of rankings, its null, and the two published ways to call a group retrieved.

AP of a query = (1/m) Σ_i i/rank_i over its m positives, i counting them from the top. Where a
positive and a negative are equally similar, the positive ranks first (as in copairs). Normalized
AP subtracts what a random ranking has on average, so that queries with unlike m and n compare.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.errors import InputError

RULES = ("copairs", "2023", "conservative")
MAX_RANKINGS = 1_500_000  # nulls of up to so many distinct rankings are enumerated
SAMPLED_RANKINGS = 100_000  # of the rule "2023" where they cannot be
ENUMERATED = 100_000  # rankings that the rule "conservative" enumerates, at most
_DRAWS = 4_000_000  # random numbers held at a time


def average_precision(
    positives: Float[np.ndarray, " m"], sorted_negatives: Float[np.ndarray, " n"]
) -> float:
    """AP of one query.

    Args:
      positives: similarities of the m > 0 positives, in any order.
      sorted_negatives: similarities of the n negatives, ascending.
    """
    top = np.sort(positives)[::-1]
    above = len(sorted_negatives) - np.searchsorted(sorted_negatives, top, side="right")
    i = np.arange(1, len(top) + 1)
    return float(np.mean(i / (i + above)))


def expected_average_precision(
    m: Int[np.ndarray, "*queries"] | int, n: Int[np.ndarray, "*queries"] | int
) -> Float[np.ndarray, "*queries"]:
    """The mean AP of a random ranking of m positives among L = m + n.

    μ = [(m − 1)/(L − 1) · (L − H_L) + H_L] / L, with H_L = 1 + 1/2 + … + 1/L.
    """
    from scipy.special import digamma

    positives = np.asarray(m, np.float64)
    total = positives + np.asarray(n, np.float64)
    harmonic = digamma(total + 1) + np.euler_gamma
    others = np.maximum(total - 1, 1)
    mean = ((positives - 1) / others * (total - harmonic) + harmonic) / total
    return np.asarray(np.where(positives == total, 1.0, mean))


def normalized_average_precision(
    ap: Float[np.ndarray, "*queries"],
    m: Int[np.ndarray, "*queries"],
    n: Int[np.ndarray, "*queries"],
) -> Float[np.ndarray, "*queries"]:
    """(AP − μ)/(1 − μ) within [−1, 1]: 1 is a perfect ranking, 0 a random one.

    μ is `expected_average_precision`; the formula is that of copairs 0.5.5.
    """
    mean = expected_average_precision(m, n)
    return np.clip((np.asarray(ap) - mean) / np.maximum(1 - mean, 1e-10), -1, 1)


def null_average_precision(
    m: int, n: int, size: int = 10_000, seed: int = 0
) -> Float[np.ndarray, " size"]:
    """AP of `size` random rankings of m positives among m + n, sorted ascending.

    The positives' ranks are a random m-subset of 1…m+n, drawn anew for every ranking.
    """
    rng = np.random.default_rng([seed, m, n])
    total = m + n
    out = np.empty(size)
    # Few among many: draw ranks, and again where two coincide; a ranking kept is a uniform draw.
    sparse = m * m < total
    step = max(1, _DRAWS // (m if sparse else total))
    for start in range(0, size, step):
        count = min(step, size - start)
        if sparse:
            ranks = np.sort(rng.integers(0, total, (count, m)), axis=1)
            while len(again := np.flatnonzero((np.diff(ranks, axis=1) == 0).any(axis=1))):
                ranks[again] = np.sort(rng.integers(0, total, (len(again), m)), axis=1)
        else:
            keys = rng.random((count, total), dtype=np.float32)
            ranks = np.sort(np.argpartition(keys, m - 1, axis=1)[:, :m], axis=1)
        out[start : start + count] = (np.arange(1, m + 1) / (ranks + 1)).mean(axis=1)
    return np.sort(out)


@lru_cache(maxsize=64)
def exact_null_average_precision(m: int, n: int) -> Float[np.ndarray, " rankings"]:
    """AP of every ranking of m positives among m + n, sorted ascending: C(m + n, m) values."""
    count = math.comb(m + n, m)
    subsets = itertools.combinations(range(1, m + n + 1), m)
    ranks = np.fromiter(itertools.chain.from_iterable(subsets), np.int32, count * m)
    values = (np.arange(1, m + 1) / ranks.reshape(count, m)).mean(axis=1)
    values.sort()
    values.setflags(write=False)
    return values


def ranking_null(
    m: int, n: int, size: int = 10_000, seed: int = 0
) -> Float[np.ndarray, " rankings"]:
    """The null of AP, ascending, which does not depend on the seed, or little.

    It holds all rankings if there are at most 1,500,000, else 100,000 random ones, or `size` if
    that is more.
    """
    if math.comb(m + n, m) <= MAX_RANKINGS:
        return exact_null_average_precision(m, n)
    return null_average_precision(m, n, max(size, SAMPLED_RANKINGS), seed)


def expected_share_above(
    m: int, n: int, values: Float[np.ndarray, " queries"], size: int, seed: int = 0
) -> Float[np.ndarray, " queries"]:
    """The expectation of `share_above` over random nulls of `size` rankings.

    It is (1 + size · P(AP > value))/(1 + size), with P from all rankings if there are at most
    1,500,000, else from 100,000 random ones. So it does not depend on the seed, or little.
    """
    null = ranking_null(m, n, size, seed)
    share = 1 - np.searchsorted(null, values + 1e-9, side="right") / len(null)
    return (1 + size * share) / (1 + size)


def share_at_least(null: Float[np.ndarray, " size"], value: float) -> float:
    """p = (1 + #{null ≥ value}) / (1 + S), for a null sorted ascending, but for rounding."""
    below = int(np.searchsorted(null, value - 1e-9, side="left"))
    return (1 + len(null) - below) / (1 + len(null))


def share_above(null: Float[np.ndarray, " size"], value: float) -> float:
    """p = (1 + #{null > value}) / (1 + S), for a null sorted ascending.

    AP is a mean of fractions: values that are equal on paper differ by rounding, so that a null
    counts as larger only if it is so by more than that.
    """
    above = len(null) - int(np.searchsorted(null, value + 1e-9, side="right"))
    return (1 + above) / (1 + len(null))


def group_significance(
    scores: pd.DataFrame,
    by: str | Sequence[str],
    *,
    rule: str = "copairs",
    null_size: int = 10_000,
    seed: int = 0,
    q: float = 0.05,
) -> pd.DataFrame:
    """Which groups of queries are retrieved.

    Rule "copairs" (copairs ≥ 0.4): a group's mAP is tested against the mean of its members'
    nulls, p = (1 + #{null mean > mAP})/(1 + S), then Benjamini–Hochberg; retrieved if q < 0.05.
    Members with the same m and n share one null, as there.

    Rule "2023" (Chandrasekaran et al., and the paper's Tables 8 and 9): p for every AP by itself,
    then the group's mean of −log10 p, then Benjamini–Hochberg on 10^(−mean). Each p is what a
    null of `null_size` random rankings gives on average (`expected_share_above`): drawing the null
    would let the fraction retrieved swing with the seed.

    Rule "conservative": as "copairs", but the null holds all rankings if there are at most
    100,000, a null that equals the group's mAP counts, and members with unlike m and n have nulls
    that are as dependent as they can be. This matters where m or n are small or plates have unlike
    numbers of controls: two replicates without effect among 8 controls are both first in 6 % of
    cases, to which "copairs" gives p = 1/(1 + S); and replicates' APs are dependent, since they
    share similarities.

    Args:
      scores: one row per query: `ap`, `positives` (m), `negatives` (n), and the columns `by`.
      by: the group's columns.
      rule, null_size, seed, q: as above.

    Returns:
      One row per group: the columns `by`, queries, map and nap (means of AP and normalized AP),
      p, q, retrieved.

    Raises:
      InputError: an unknown rule.
    """
    if rule not in RULES:
        raise InputError(f"there is no rule '{rule}'; choose {', '.join(RULES)}.")
    columns = [by] if isinstance(by, str) else list(by)
    if scores.empty:
        return pd.DataFrame(columns=[*columns, "queries", "map", "nap", "p", "q", "retrieved"])
    sizes = list(zip(scores["positives"], scores["negatives"], strict=True))
    nulls: dict[tuple[int, int], np.ndarray] = {}
    m, n = (scores[c].to_numpy(np.int64) for c in ("positives", "negatives"))
    scores = scores.assign(
        _size=pd.Series(sizes, index=scores.index),
        _nap=normalized_average_precision(scores["ap"].to_numpy(np.float64), m, n),
    )
    if rule == "2023":
        scores["_log"] = _log_p(scores, null_size, seed)
    else:
        make = null_average_precision if rule == "copairs" else _conservative_null
        for size in set(sizes):
            nulls[size] = make(int(size[0]), int(size[1]), null_size, seed)
    rows = []
    for key, group in scores.groupby(columns, sort=True):
        mean = float(group["ap"].mean())
        if rule == "2023":
            p = float(10 ** -group["_log"].mean())
        else:
            counts = group["_size"].value_counts()
            if rule == "conservative":
                null = np.zeros(null_size)
                for mn, count in counts.items():
                    null += nulls[mn] * (count / len(group))  # type: ignore[index]
                p = share_at_least(null, mean)
            elif len(counts) == 1:
                p = share_above(nulls[counts.index[0]], mean)
            else:
                p = share_above(_mean_null(counts, nulls, null_size, seed), mean)
        nap = float(group["_nap"].mean())
        rows.append((*(key if isinstance(key, tuple) else (key,)), len(group), mean, nap, p))
    table = pd.DataFrame(rows, columns=[*columns, "queries", "map", "nap", "p"])
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    table["retrieved"] = table["q"] < q
    return table


def _log_p(scores: pd.DataFrame, size: int, seed: int) -> Float[np.ndarray, " queries"]:
    """−log10 p of every query."""
    out = np.empty(len(scores))
    aps = scores["ap"].to_numpy(np.float64)
    sizes = scores[["positives", "negatives"]].to_numpy(np.int64)
    for m, n in np.unique(sizes, axis=0):
        rows = (sizes == (m, n)).all(axis=1)
        out[rows] = -np.log10(expected_share_above(int(m), int(n), aps[rows], size, seed))
    return out


def _mean_null(
    counts: "pd.Series[int]", nulls: dict[tuple[int, int], np.ndarray], size: int, seed: int
) -> np.ndarray:
    """The null of a mean over members of unlike (m, n), whose nulls are independent."""
    rng = np.random.default_rng([seed, 1])
    total = np.zeros(size)
    for key, count in counts.items():
        total += count * rng.permutation(nulls[key])  # type: ignore[index]
    return np.sort(total / counts.sum())


def _conservative_null(m: int, n: int, size: int, seed: int) -> Float[np.ndarray, " size"]:
    """All rankings as `size` equally likely values if there are few, else random ones."""
    if math.comb(m + n, m) > ENUMERATED:
        return null_average_precision(m, n, size, seed)
    null = exact_null_average_precision(m, n)
    return null[((np.arange(size) + 0.5) / size * len(null)).astype(int)]


def is_sampled(scores: pd.DataFrame, rule: str) -> bool:
    """Whether `group_significance` depends on its seed: not where the null holds all rankings."""
    sizes = scores[["positives", "negatives"]].drop_duplicates().to_numpy(np.int64).tolist()
    limit = ENUMERATED if rule == "conservative" else MAX_RANKINGS
    return rule == "copairs" or any(math.comb(m + n, m) > limit for m, n in sizes)


def benjamini_hochberg(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjusted p-values (q)."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(p) if len(p) else p


def all_against_all(
    unit_rows: Float[np.ndarray, "rows features"],
    codes: Int[np.ndarray, " rows"],
    absolute: bool = False,
) -> pd.DataFrame:
    """AP of every row against all others: positives share its code, all others are negatives.

    Args:
      unit_rows: rows of length 1 (N, F).
      codes: (N,) labels as integers.
      absolute: rank by |cosine|.

    Returns:
      One row per query that has a positive and a negative: `row`, ap, positives, negatives.
    """
    n = len(unit_rows)
    columns = np.ascontiguousarray(unit_rows.T)
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], codes, side="right")
    starts = np.searchsorted(codes[order], codes, side="left")
    scores_of_rows = []
    for start in range(0, n, 512):
        block = unit_rows[start : start + 512] @ columns
        if absolute:
            np.abs(block, out=block)
        own = [order[starts[start + r] : ends[start + r]] for r in range(len(block))]
        own = [o[o != start + r] for r, o in enumerate(own)]
        positives = [np.sort(block[r, o])[::-1] for r, o in enumerate(own)]
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf  # not itself
        block.sort(axis=1)
        for r, top in enumerate(positives):
            m = len(top)
            negatives = n - 1 - m
            if m and negatives:
                # All that lie above each positive, less the positives among them.
                above = n - np.searchsorted(block[r], top, side="right")
                above -= np.searchsorted(-top, -top, side="left")
                i = np.arange(1, m + 1)
                scores_of_rows.append((start + r, float(np.mean(i / (i + above))), m, negatives))
    return pd.DataFrame(scores_of_rows, columns=["row", "ap", "positives", "negatives"])
