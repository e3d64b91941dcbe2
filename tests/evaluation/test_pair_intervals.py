"""Intervals over pairs that share genes: closed forms, and their coverage in simulations."""

import itertools

import numpy as np
import pandas as pd
import pytest

from mae_jax.evaluation import Profiles, Relationships, recall
from mae_jax.evaluation.model_comparison import compare_recall
from mae_jax.evaluation.pair_intervals import (
    degrees_of_freedom,
    difference_interval,
    pair_variance,
    share_interval,
)


def test_variance_is_that_of_all_dependent_pairs() -> None:
    rng = np.random.default_rng(0)
    ends = np.array(list(itertools.combinations(range(7), 2)))[rng.permutation(21)[:15]]
    values = rng.standard_normal(15)
    e = values - values.mean()
    shared = np.array([[bool(set(a) & set(b)) for b in ends] for a in ends])
    want = (e[:, None] * e * shared).sum() / 15**2
    assert pair_variance(values, ends) == pytest.approx(max(want, (e**2).sum() / 15**2))


def test_disjoint_pairs_are_independent() -> None:
    ends = np.arange(400).reshape(200, 2)
    hits = (np.arange(200) < 60).astype(float)
    assert pair_variance(hits, ends) == pytest.approx(0.3 * 0.7 / 200)
    assert degrees_of_freedom(ends) == pytest.approx(199)
    low, high = share_interval(hits, ends)
    assert low == pytest.approx(0.24, abs=0.005)  # Wilson's for 60 of 200
    assert high == pytest.approx(0.367, abs=0.005)


def test_shares_of_none_and_all() -> None:
    ends = np.array(list(itertools.combinations(range(10), 2)))
    for share in (0.0, 1.0):
        low, high = share_interval(np.full(45, share), ends)
        assert (low == 0) == (share == 0)
        assert (high == 1) == (share == 1)
        assert high - low > 0.3  # of five pairs that share no gene, not of 45


def test_no_difference_at_all() -> None:
    interval, p = difference_interval(np.zeros(5), np.arange(10).reshape(5, 2))
    assert (interval.low, interval.high, p) == (0, 0, 1)


GENES, SIZE = 240, 8
COMPLEXES = Relationships.of(
    "complexes",
    [
        (f"G{a:03d}", f"G{b:03d}")
        for start in range(0, GENES, SIZE)
        for a, b in itertools.combinations(range(start, start + SIZE), 2)
    ],
)


def noisy_map(seed: int) -> Profiles:
    """The same 30 complexes every time; each gene's own noise is drawn anew."""
    effect = np.random.default_rng(0).standard_normal((GENES // SIZE, 16)).repeat(SIZE, axis=0)
    x = 0.7 * effect + np.random.default_rng(seed).standard_normal((GENES, 16))
    metadata = pd.DataFrame({"Metadata_Gene": [f"G{i:03d}" for i in range(GENES)]})
    return Profiles(metadata, x.astype(np.float32), tuple(f"f{i}" for i in range(16)))


def test_coverage_of_recall_and_of_differences() -> None:
    """95 % intervals cover in about 95 %; counting pairs as independent they do not."""
    results = [recall(noisy_map(seed), [COMPLEXES])[0] for seed in range(1, 201)]
    truth = np.mean([r.recall for r in results])
    covered = np.mean([r.low <= truth <= r.high for r in results])
    assert covered >= 0.93
    differ = [
        compare_recall({"a": [a], "b": [b]})["p"].iloc[0] < 0.05
        for a, b in zip(results[::2], results[1::2], strict=True)
    ]
    assert np.mean(differ) <= 0.1
    independent = [1.96 * np.sqrt(r.recall * (1 - r.recall) / r.pairs_used) for r in results]
    naive = np.mean([abs(r.recall - truth) <= w for r, w in zip(results, independent, strict=True)])
    assert naive < 0.9
