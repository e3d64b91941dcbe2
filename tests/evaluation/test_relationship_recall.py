"""Recall against its definition spelled out with loops, and against what it must be."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, Relationships, recall
from mae_jax.evaluation.relationship_recall import in_tails, pair_ranks


def genes(features: np.ndarray) -> Profiles:
    names = [f"G{i:04d}" for i in range(len(features))]
    metadata = pd.DataFrame({"Metadata_Gene": names})
    feature_names = tuple(f"f{i}" for i in range(features.shape[1]))
    return Profiles(metadata, features.astype(np.float32), feature_names)


def some_pairs(n: int, count: int, seed: int = 0) -> Relationships:
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, n, (count, 2))
    return Relationships.of("db", [(f"G{a:04d}", f"G{b:04d}") for a, b in ends])


def by_definition(features: np.ndarray, database: Relationships, low: float, high: float) -> float:
    """Counts, over the null, pair by pair."""
    cosines = cosine_similarity(features.astype(np.float64))
    null = cosines[np.triu_indices(len(features), 1)]
    hits = []
    for a, b in database.pairs:
        i, j = int(a[1:]), int(b[1:])
        if max(i, j) >= len(features):
            continue
        q = cosines[i, j]
        hits.append((null <= q).sum() <= low * len(null) or (null < q).sum() >= high * len(null))
    return float(np.mean(hits))


@pytest.mark.parametrize("n", [20, 21, 57, 130])
@pytest.mark.parametrize("width", [0.05, 0.01, 0.2])
def test_is_the_definition(n: int, width: float) -> None:
    features = np.random.default_rng(n).standard_normal((n, 6))
    database = some_pairs(n + 5, 400)
    got = recall(genes(features), [database], tails=(width, 1 - width))[0]
    assert got.recall == pytest.approx(by_definition(features, database, width, 1 - width))
    assert got.pairs_used + got.pairs_dropped == len(database)
    assert got.pairs_dropped > 0


def test_is_the_order_statistic_form() -> None:
    """q < v[floor(.05N)] or q > v[ceil(.95N) − 1], v sorted, with many ties."""
    rng = np.random.default_rng(3)
    v = np.sort(rng.integers(0, 40, 1000))
    q = np.arange(-1, 42)
    less, up_to = np.searchsorted(v, q, "left") / 1000, np.searchsorted(v, q, "right") / 1000
    want = (q < v[int(np.floor(0.05 * 1000))]) | (q > v[int(np.ceil(0.95 * 1000)) - 1])
    np.testing.assert_array_equal(in_tails(less, up_to), want)


def test_blocks_agree_with_one_matrix() -> None:
    features = np.random.default_rng(0).standard_normal((2100, 8)).astype(np.float32)
    pairs = np.sort(np.random.default_rng(1).choice(2100, (500, 2)), axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    q, less, up_to, degenerate = pair_ranks(features, pairs)
    cosines = cosine_similarity(features.astype(np.float64))
    null = np.sort(cosines[np.triu_indices(2100, 1)])
    np.testing.assert_allclose(q, cosines[pairs[:, 0], pairs[:, 1]], atol=1e-6)
    np.testing.assert_allclose(less, np.searchsorted(null, q) / len(null), atol=1e-5)
    assert not degenerate
    # Every q is itself in the null.
    assert (up_to > less).all()


def test_random_embeddings_recall_a_tenth() -> None:
    features = np.random.default_rng(0).standard_normal((1500, 64))
    got = recall(genes(features), [some_pairs(1500, 20000)])[0]
    assert got.recall == pytest.approx(0.10, abs=0.01)
    assert got.low < 0.10 < got.high


def test_equal_embeddings_recall_nothing() -> None:
    row = np.random.default_rng(0).standard_normal((1, 33))
    for features in (np.repeat(row, 50, axis=0), np.zeros((50, 5))):
        got = recall(genes(features), [some_pairs(50, 300)])[0]
        assert got.degenerate
        assert got.recall == 0
        assert (got.sweep["recall"] == 0).all()


def test_twins_and_opposites_are_recalled() -> None:
    half = np.random.default_rng(0).standard_normal((100, 32))
    features = np.concatenate([half, half, -half])
    twins = Relationships.of("twins", [(f"G{i:04d}", f"G{i + 100:04d}") for i in range(100)])
    opposites = Relationships.of(
        "opposites", [(f"G{i:04d}", f"G{i + 200:04d}") for i in range(100)]
    )
    assert [r.recall for r in recall(genes(features), [twins, opposites])] == [1.0, 1.0]


def test_sweep_is_recall_at_every_width() -> None:
    features = np.random.default_rng(5).standard_normal((80, 5))
    database = some_pairs(80, 500)
    sweep = recall(genes(features), [database])[0].sweep
    assert (np.diff(sweep["recall"]) >= 0).all()
    assert sweep["recall"].iloc[-1] == 1.0
    for width in (1.0, 5.0, 20.0):
        alone = recall(genes(features), [database], tails=(width / 100, 1 - width / 100))[0].recall
        assert sweep.set_index("percentile").loc[width, "recall"] == alone


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_order_scale_and_rotation_do_not_matter(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((40, 5))
    database = some_pairs(40, 150, seed)
    want = recall(genes(features), [database])[0].recall
    shuffle = rng.permutation(40)
    profiles = genes(features * scale).take(shuffle)
    assert recall(profiles, [database])[0].recall == want
    # A rotation turns float32 rounding, which may move a pair across the threshold: one at most.
    rotated = genes(features @ special_ortho_group.rvs(5, random_state=seed))
    assert abs(recall(rotated, [database])[0].recall - want) <= 2 / len(database)


def test_bad_maps_are_refused() -> None:
    features = np.random.default_rng(0).standard_normal((30, 4))
    database = some_pairs(30, 50)
    with pytest.raises(InputError, match="at least 20 genes, the map has 19"):
        recall(genes(features[:19]), [database])
    twice = genes(features)
    twice.metadata.loc[3, "Metadata_Gene"] = "G0002"
    with pytest.raises(InputError, match="G0002 comes more than once"):
        recall(twice, [database])
    with pytest.raises(InputError, match="db shares no pair"):
        recall(genes(features), [Relationships.of("db", [("A", "B")])])
    features[4, 1] = np.nan
    with pytest.raises(InputError, match="G0004 has NaN"):
        recall(genes(features), [database])


def test_ranks_at_17000_genes_are_exact_fractions() -> None:
    """0.05·N need not be a whole number, and its product in floats is not exact."""
    n = 20 * 19 // 2  # 190 pairs: 5 % is 9.5
    less = np.arange(n) / n
    hit = in_tails(less, (np.arange(n) + 1) / n)
    assert hit.sum() == 18
    n = 780  # 40 genes; 5 % is exactly 39
    less = np.arange(n) / n
    assert in_tails(less, (np.arange(n) + 1) / n).sum() == 78
