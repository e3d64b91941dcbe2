"""Paired comparison of models and the choice of the best block."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, Relationships, aggregate, correct, recall
from mae_jax.evaluation.model_comparison import compare_recall, probe_blocks


def noisy(screen: Profiles, noise: float, seed: int) -> Profiles:
    rng = np.random.default_rng(seed)
    features = screen.features + noise * screen.features.std() * rng.standard_normal(
        screen.features.shape
    )
    return Profiles(screen.metadata, features.astype(np.float32), screen.names)


def gene_map(noise: float, seed: int = 1) -> Profiles:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 16)).repeat(2, axis=0)
    x = x + noise * np.random.default_rng(seed).standard_normal(x.shape)
    names = [f"G{i:03d}" for i in range(200)]
    return Profiles(
        pd.DataFrame({"Metadata_Gene": names}), x.astype(np.float32), tuple(map(str, range(16)))
    )


TWINS = Relationships.of("twins", [(f"G{i:03d}", f"G{i + 1:03d}") for i in range(0, 200, 2)])


def test_a_clear_difference_and_none() -> None:
    results = {
        "bad": recall(gene_map(2.0), [TWINS]),
        "good": recall(gene_map(0.3), [TWINS]),
        "same": recall(gene_map(2.0, seed=1), [TWINS]),
    }
    table = compare_recall(results).set_index(["a", "b"])
    better = table.loc[("bad", "good")]
    assert better["difference"] > 0.2
    assert better["low"] > 0
    assert better["p"] < 0.01
    assert better["difference"] == pytest.approx(better["recall_b"] - better["recall_a"])
    none = table.loc[("bad", "same")]
    assert (none["difference"], none["low"], none["high"], none["p"]) == (0, 0, 0, 1)
    with pytest.raises(InputError, match="two models"):
        compare_recall({"a": results["bad"]})


def test_interval_is_that_of_drawing_pairs() -> None:
    results = {"a": recall(gene_map(1.5, 2), [TWINS]), "b": recall(gene_map(1.2, 3), [TWINS])}
    got = compare_recall(results).iloc[0]
    a = results["a"][0].pairs["recalled"].to_numpy(float)
    b = results["b"][0].pairs["recalled"].to_numpy(float)
    rng = np.random.default_rng(5)  # twins share no gene, so that drawing pairs is right here
    draws = [(b - a)[rng.integers(0, 100, 100)].mean() for _ in range(4000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert got["low"] == pytest.approx(low, abs=0.02)
    assert got["high"] == pytest.approx(high, abs=0.02)


def test_the_best_block_is_found(screen: Profiles) -> None:
    pairs = Relationships.of("c", [(f"G{i:03d}", f"G{i + 1:03d}") for i in range(0, 40, 2)])
    blocks = {"1": noisy(screen, 8, 1), "2": screen, "3": noisy(screen, 2, 2)}
    maps = {name: aggregate(correct(wells, "tvn-centered")) for name, wells in blocks.items()}
    table, against = probe_blocks(maps, [pairs])
    by = table.set_index("block")["recall"]
    assert by.idxmax() == "2"
    assert table["order"].tolist() == [0, 1, 2]
    assert set(against["b"]) == {"1", "2"}
    assert (against["a"] == "3").all()
