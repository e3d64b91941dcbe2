"""Average precision, its null and both rules: against scikit-learn, copairs and enumeration."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import (
    all_against_all,
    average_precision,
    benjamini_hochberg,
    exact_null_average_precision,
    expected_average_precision,
    expected_share_above,
    group_significance,
    normalized_average_precision,
    null_average_precision,
    share_above,
)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 8), n=st.integers(1, 30), seed=st.integers(0, 10_000))
def test_is_scikit_learns_without_ties(m: int, n: int, seed: int) -> None:
    scores = np.random.default_rng(seed).permutation(m + n).astype(float)
    truth = np.arange(m + n) < m
    got = average_precision(scores[truth], np.sort(scores[~truth]))
    assert got == pytest.approx(average_precision_score(truth, scores))


def test_ties_favor_positives() -> None:
    assert average_precision(np.ones(3), np.ones(50)) == 1.0
    assert average_precision(np.array([0.0]), np.ones(4)) == pytest.approx(1 / 5)


@pytest.mark.parametrize(("m", "n"), [(1, 5), (2, 4), (3, 5), (4, 3)])
def test_null_is_that_of_all_subsets(m: int, n: int) -> None:
    every = [
        np.mean([i / r for i, r in enumerate(ranks, 1)])
        for ranks in itertools.combinations(range(1, m + n + 1), m)
    ]
    drawn = null_average_precision(m, n, 40_000)
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.005)
    for value in sorted(set(every)):
        exact = np.mean(np.array(every) > value + 1e-9)
        assert share_above(drawn, value) == pytest.approx(exact, abs=0.01)


def test_normalized_ap_is_that_of_copairs_and_zero_at_random() -> None:
    normalization = pytest.importorskip("copairs.map.normalization")
    m, n = np.meshgrid(np.arange(1, 9), np.arange(0, 40))
    m, n = m.ravel(), n.ravel()
    want = [normalization.expected_ap(int(a), int(b)) for a, b in zip(m, n, strict=True)]
    np.testing.assert_allclose(expected_average_precision(m, n), want, rtol=1e-12)
    ap = np.random.default_rng(0).random(len(m))
    theirs = normalization.normalize_ap(ap, m, n)
    np.testing.assert_allclose(normalized_average_precision(ap, m, n), theirs, atol=1e-9)
    for a, b in ((1, 4), (3, 16), (5, 5)):
        every = exact_null_average_precision(a, b)
        assert expected_average_precision(a, b) == pytest.approx(every.mean(), rel=1e-12)
        scores = normalized_average_precision(every, np.full(len(every), a), np.full(len(every), b))
        assert scores.mean() == pytest.approx(0, abs=1e-12)
        assert scores.max() == 1


@pytest.mark.parametrize(("m", "n"), [(3, 400), (30, 40)])
def test_null_is_the_same_whether_few_or_many_are_positive(m: int, n: int) -> None:
    """Two ways of drawing; the mean has a closed form."""
    total = m + n
    ranks = np.arange(1, total + 1)
    # P(rank r positive) = m/N, and given it, (m−1)/(N−1) of the r−1 above are positive.
    expected = np.mean((1 + (ranks - 1) * (m - 1) / (total - 1)) / ranks)
    assert null_average_precision(m, n, 40_000).mean() == pytest.approx(expected, rel=0.01)


def test_null_is_deterministic_by_seed() -> None:
    a = null_average_precision(3, 20, 100, seed=1)
    np.testing.assert_array_equal(a, null_average_precision(3, 20, 100, seed=1))
    assert (a != null_average_precision(3, 20, 100, seed=2)).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_p_values_are_monotone_and_never_zero(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    null = np.sort(rng.random(size))
    values = np.sort(rng.random(10))
    p = np.array([share_above(null, v) for v in values])
    assert (np.diff(p) <= 0).all()
    assert (p >= 1 / (1 + size)).all()
    assert (p <= 1).all()


def test_benjamini_hochberg_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02])
    assert len(benjamini_hochberg(np.empty(0))) == 0


def test_the_2023_rule_by_hand() -> None:
    scores = pd.DataFrame(
        {"g": ["a", "a", "b"], "ap": [1.0, 0.3, 0.2], "positives": 1, "negatives": 9}
    )
    got = group_significance(scores, "g", rule="2023", null_size=5000, seed=3).set_index("g")
    above = (0.0, 0.3, 0.4)  # of the ten ranks of one positive: AP is 1, 1/2, 1/3, 1/4, …
    p = [(1 + 5000 * share) / 5001 for share in above]
    assert got.loc["a", "p"] == pytest.approx(np.sqrt(p[0] * p[1]))
    assert got.loc["b", "p"] == pytest.approx(p[2])
    assert got["q"].tolist() == pytest.approx(benjamini_hochberg(got["p"].to_numpy()).tolist())
    with pytest.raises(InputError, match="no rule '2022'"):
        group_significance(scores, "g", rule="2022")


def clusters(n: int = 120, groups: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, groups, n)
    centers = rng.standard_normal((groups, 8)) * np.linspace(0, 2, groups)[:, None]
    x = (centers[codes] + rng.standard_normal((n, 8))).astype(np.float32)
    return x, codes


@pytest.mark.parametrize("absolute", [False, True])
def test_all_against_all_is_the_definition(absolute: bool) -> None:
    x, codes = clusters()
    cosines = l2_normalize(x) @ l2_normalize(x).T
    cosines = np.abs(cosines) if absolute else cosines
    got = all_against_all(l2_normalize(x), codes, absolute).set_index("row")
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        truth = codes[others] == codes[i]
        if truth.any():
            want = average_precision_score(truth, cosines[i, others])
            assert got.loc[i, "ap"] == pytest.approx(want, abs=1e-6)
            assert got.loc[i, "positives"] == truth.sum()
        else:
            assert i not in got.index


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_all_against_all_does_not_mind_order_or_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, codes = clusters(60, 10, seed)
    want = all_against_all(l2_normalize(x), codes).set_index("row")["ap"]
    order = rng.permutation(60)
    scale = np.exp(rng.standard_normal((60, 1)))
    got = all_against_all(l2_normalize((x * scale)[order]), codes[order])
    got = got.assign(row=order[got["row"]]).set_index("row")["ap"].sort_index()
    # float32 may swap two neighbors in a ranking.
    assert (np.abs(got - want) > 1e-6).mean() < 0.05


def test_is_copairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AP equal to copairs' from PyPI, p-values equal but for the draws, same groups retrieved."""
    copairs = pytest.importorskip("copairs.map")
    x, codes = clusters(150, 25, seed=4)
    meta = pd.DataFrame({"label": [f"c{c}" for c in codes]})
    theirs = copairs.average_precision(meta, x, ["label"], [], [], ["label"], progress_bar=False)
    ours = all_against_all(l2_normalize(x), codes).set_index("row")
    valid = theirs["average_precision"].notna() & (theirs["n_pos_pairs"] > 0)
    assert valid.sum() == len(ours)
    np.testing.assert_allclose(ours["ap"], theirs.loc[ours.index, "average_precision"], atol=1e-5)
    groups = copairs.mean_average_precision(
        theirs, ["label"], 20_000, 0.05, 0, progress_bar=False, cache_dir=tmp_path
    ).set_index("label")
    ours["label"] = meta["label"].to_numpy()[ours.index]
    table = group_significance(ours, "label", null_size=20_000).set_index("label")
    np.testing.assert_allclose(
        table["map"], groups.loc[table.index, "mean_average_precision"], atol=1e-5
    )
    np.testing.assert_allclose(table["p"], groups.loc[table.index, "p_value"], atol=0.015)
    clear = (table["q"] < 0.03) | (table["q"] > 0.08)  # the draws may decide what lies between
    assert clear.sum() > 15
    assert (table["retrieved"][clear] == groups.loc[table.index, "below_corrected_p"][clear]).all()
    assert 0 < table["retrieved"].sum() < len(table)


def test_the_null_of_few_positives_is_exact() -> None:
    null = exact_null_average_precision(2, 3)
    want = [(1 / a + 2 / b) / 2 for a, b in itertools.combinations(range(1, 6), 2)]
    np.testing.assert_allclose(null, sorted(want))
    sampled = null_average_precision(3, 20, 200_000)
    exact = exact_null_average_precision(3, 20)
    assert len(exact) == 1771
    np.testing.assert_allclose(
        np.quantile(sampled, [0.1, 0.5, 0.9]), np.quantile(exact, [0.1, 0.5, 0.9]), atol=0.005
    )


@pytest.mark.parametrize(("m", "n"), [(3, 32), (9, 60)])
def test_p_of_the_2023_rule_is_the_mean_over_random_nulls(m: int, n: int) -> None:
    values = np.quantile(null_average_precision(m, n, 2000, 99), [0.2, 0.6, 0.95, 1.0])
    got = expected_share_above(m, n, values, 1000)
    drawn = [
        [share_above(null_average_precision(m, n, 1000, seed), v) for v in values]
        for seed in range(60)
    ]
    np.testing.assert_allclose(got, np.mean(drawn, axis=0), atol=0.006)
    assert expected_share_above(m, n, np.array([1.0]), 1000)[0] == pytest.approx(1 / 1001)


def test_the_2023_fraction_does_not_depend_on_the_seed() -> None:
    """306 perturbations near the threshold: drawn nulls moved the fraction by some per cent."""
    rng = np.random.default_rng(0)
    rows = []
    for group in range(306):
        for _ in range(4):
            lift = 1.6 * (group % 2)
            positives, negatives = rng.standard_normal(3) + lift, rng.standard_normal(32)
            ap = average_precision(positives, np.sort(negatives))
            rows.append((f"g{group:03d}", ap, 3, 32))
    scores = pd.DataFrame(rows, columns=["group", "ap", "positives", "negatives"])
    fractions = {
        group_significance(scores, "group", rule="2023", seed=seed)["retrieved"].mean()
        for seed in range(5)
    }
    assert len(fractions) == 1
    assert 0.1 < fractions.pop() < 0.5
