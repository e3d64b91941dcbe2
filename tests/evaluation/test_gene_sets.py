"""Recall at 5 % false positives (Table 5) against its definition."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, Relationships
from mae_jax.evaluation.gene_sets import recall_at_false_positives


def gene_map(n: int, seed: int = 0) -> Profiles:
    x = np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)
    x[1::2] = 0.7 * x[::2] + 0.3 * x[1::2]
    names = [f"G{i:02d}" for i in range(n)]
    return Profiles(pd.DataFrame({"Metadata_Gene": names}), x, tuple("abcdef"))


def test_is_the_definition() -> None:
    genes = gene_map(40)
    known = Relationships.of("db", [(f"G{i:02d}", f"G{i + 1:02d}") for i in range(0, 38, 2)])
    wanted = [f"G{i:02d}" for i in range(30)] + ["absent", "G03"]
    got = recall_at_false_positives(genes, known, {"s": wanted}).iloc[0]
    x = genes.features[:30].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    positives = [x[i] @ x[i + 1] for i in range(0, 30, 2)]
    others = [
        x[i] @ x[j] for i in range(30) for j in range(i + 1, 30) if not (i % 2 == 0 and j == i + 1)
    ]
    threshold = np.percentile(others, 95)
    assert got["threshold"] == pytest.approx(threshold, abs=1e-6)
    assert got["recall"] == pytest.approx(np.mean(np.array(positives) > threshold))
    assert (got["genes"], got["missing"], got["pairs"], got["others"]) == (30, 1, 15, 420)


def test_random_maps_recall_the_rate() -> None:
    rng = np.random.default_rng(0)
    genes = gene_map(300)
    genes.features[:] = rng.standard_normal((300, 6))
    names = genes.metadata["Metadata_Gene"].tolist()
    ends = rng.integers(0, 300, (4000, 2))
    known = Relationships.of("db", [(names[a], names[b]) for a, b in ends])
    got = recall_at_false_positives(genes, known, {"s": names}).iloc[0]
    assert got["recall"] == pytest.approx(0.05, abs=0.012)


def test_sets_without_pairs_are_refused() -> None:
    genes = gene_map(30)
    known = Relationships.of("db", [("G00", "G01")])
    with pytest.raises(InputError, match="no pair of its 2 genes"):
        recall_at_false_positives(genes, known, {"s": ["G04", "G05"]})
    with pytest.raises(InputError, match="every pair"):
        recall_at_false_positives(genes, known, {"s": ["G00", "G01"]})
