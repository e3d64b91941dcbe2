"""Replicate consistency and perturbation strength: closed forms, and what their nulls must do."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import kstest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, correct
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.replicates import (
    mean_cosine,
    perturbation_strength,
    replicate_consistency,
)


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = l2_normalize(np.random.default_rng(0).standard_normal((7, 5)))
    cosines = rows @ rows.T
    assert mean_cosine(rows) == pytest.approx(cosines[np.triu_indices(7, 1)].mean(), abs=1e-6)


def test_strong_perturbations_are_consistent_and_strong(screen: Profiles) -> None:
    fixed = correct(screen, "standardize-plate")
    consistency = replicate_consistency(fixed, permutations=200)
    assert len(consistency) == 40
    assert (consistency["q"] < 0.05).mean() > 0.8
    strength = perturbation_strength(fixed, permutations=200)
    assert (strength["q"] < 0.05).mean() > 0.8
    row = (fixed.metadata["Metadata_Gene"] == "G003").to_numpy()
    mean = fixed.features[row].mean(axis=0) - fixed.features[fixed.controls()].mean(axis=0)
    got = strength.set_index("Metadata_Perturbation").loc["G003_g1", "strength"]
    assert got == pytest.approx(np.linalg.norm(mean), rel=1e-4)


def test_p_values_are_uniform_when_nothing_happens(make_screen: Callable[..., Profiles]) -> None:
    screen = make_screen(genes=200, controls=60, experiments=2, plates=2)
    screen.features[:] = np.random.default_rng(3).standard_normal(screen.features.shape)
    for table in (
        replicate_consistency(screen, permutations=300),
        perturbation_strength(screen, permutations=300),
    ):
        assert kstest(table["p"], "uniform").pvalue > 0.01
        assert (table["q"] < 0.05).mean() < 0.05
        assert table["p"].min() >= 1 / 301


def test_one_replicate_or_few_controls(screen: Profiles) -> None:
    once = screen.select(Experiment="E0", Plate="P0")
    with pytest.raises(InputError, match="no replicates"):
        replicate_consistency(once)
    assert perturbation_strength(once, permutations=50)["p"].notna().all()
    few = once.take(np.r_[0, 20:60])  # one control: no null of one well against the others
    assert perturbation_strength(few, permutations=50)["p"].isna().all()


def test_scale_does_not_matter(screen: Profiles) -> None:
    twice = Profiles(screen.metadata, screen.features * np.float32(8), screen.names)
    for measure in (replicate_consistency, perturbation_strength):
        a, b = (measure(p, permutations=50)["p"] for p in (screen, twice))
        np.testing.assert_array_equal(a, b)
