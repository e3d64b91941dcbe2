"""Replicate consistency and perturbation strength: closed forms, and what their nulls must do."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kstest

from mae_jax.errors import InputError
from mae_jax.evaluation import CORRECTIONS, Profiles, correct
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import group_significance
from mae_jax.evaluation.holdout import correct_with_holdout
from mae_jax.evaluation.inert_null import against_inert
from mae_jax.evaluation.neighbors import neighbor_accuracy
from mae_jax.evaluation.phenotypic import phenotypic_consistency
from mae_jax.evaluation.replicates import (
    energy_distance,
    mean_cosine,
    perturbation_strength,
    replicate_consistency,
)
from mae_jax.evaluation.retrieval import perturbation_retrieval, sibling_retrieval


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
    assert (strength["energy_q"] < 0.05).mean() > 0.8


def inert(
    seed: int, plate_effect: float, width: int = 64, controls: int = 40, perturbations: int = 200
) -> Profiles:
    """Perturbations without any effect on 4 plates in 2 experiments; 1,160 wells by default."""
    rng = np.random.default_rng(seed)
    rows, blocks = [], []
    wells = controls + perturbations * 5 // 4
    for plate in range(4):
        x = rng.standard_normal((wells, width))
        gain = np.exp(0.1 * plate_effect * rng.standard_normal(width))
        blocks.append(x * gain + plate_effect * rng.standard_normal(width))
        for well in range(wells):
            control = well < controls
            rows.append(
                {
                    "Metadata_Experiment": f"E{plate // 2}",
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": f"W{well:03d}",
                    "Metadata_Perturbation": "" if control else f"T{well % perturbations:03d}",
                    "Metadata_Gene": "" if control else f"G{well % (perturbations // 4):03d}",
                    "Metadata_ControlType": "negcon" if control else "",
                }
            )
    names = tuple(f"f{i}" for i in range(width))
    return Profiles(pd.DataFrame(rows), np.concatenate(blocks).astype(np.float32), names)


def p_values(
    wells: Profiles, known: Iterable[int], permutations: int = 100
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """p and q of every score that prints them; `known` are the inert perturbations."""
    consistency = replicate_consistency(wells, permutations=permutations)
    strength = perturbation_strength(wells, permutations=permutations)
    retrieval = perturbation_retrieval(wells, null_size=1000)
    activity = group_significance(
        retrieval.queries, "Metadata_Perturbation", rule="conservative", null_size=1000
    )
    targets = phenotypic_consistency(wells, null_size=1000).groups
    nearest = neighbor_accuracy(wells, permutations=50).labels
    everything = sorted(set(wells.metadata["Metadata_Perturbation"]) - {""})
    siblings = sibling_retrieval(wells, everything, null_size=1000).groups
    tables = {
        "consistency": consistency[["p", "q"]],
        "strength": strength[["p", "q"]],
        "energy": strength[["energy_p", "energy_q"]],
        "retrieval": retrieval.groups[["p", "q"]],
        "phenotypic activity": activity[["p", "q"]],
        "phenotypic consistency": targets[["p", "q"]],
        "nearest neighbors": nearest[["p", "q"]],
        "siblings": siblings[["p", "q"]],
    }
    scores = {n: (t.iloc[:, 0].to_numpy(), t.iloc[:, 1].to_numpy()) for n, t in tables.items()}
    names = [f"T{i:03d}" for i in known]
    for name, table, statistic in (
        ("consistency", consistency, "z"),
        ("strength", strength, "z"),
        ("energy", strength, "energy_z"),
    ):
        p, q = against_inert(table, statistic, names)
        scores[f"{name} against inert perturbations"] = (p[np.isfinite(p)], q[np.isfinite(q)])
    return scores


OFFSETS = [(method, 2.0) for method in CORRECTIONS]


@pytest.mark.parametrize(("method", "plate_effect"), [("none", 0.0), ("tvn", 0.0), *OFFSETS])
def test_inert_perturbations_are_not_significant(method: str, plate_effect: float) -> None:
    """Noise, with plate offsets or without: hardly a q is below 0.05, and few p."""
    if method == "harmony":
        pytest.importorskip("harmonypy")
    small = inert(0, plate_effect, width=24, controls=24, perturbations=60)
    wells, _ = correct_with_holdout(small, method)
    for score, (p, q) in p_values(wells, range(30, 60)).items():
        assert (p < 0.05).mean() < 0.17, score
        assert (q < 0.05).sum() <= 1, score


@pytest.mark.slow
@pytest.mark.parametrize(("method", "plate_effect"), [("none", 0.0), ("tvn", 0.0), *OFFSETS])
def test_p_values_are_calibrated_at_size(method: str, plate_effect: float) -> None:
    """1,160 wells, 160 controls, 128 features: p below 0.05 in about 5 % or fewer, q nowhere.

    All perturbations of a screen share the controls, so that the share varies by 2 % over three
    screens.
    """
    if method == "harmony":
        pytest.importorskip("harmonypy")
    shares: dict[str, list[float]] = {}
    for seed in range(3):
        wells, _ = correct_with_holdout(inert(seed, plate_effect, width=128), method)
        for score, (p, q) in p_values(wells, range(100, 150), permutations=1000).items():
            shares.setdefault(score, []).append((p < 0.05).mean())
            assert (q < 0.05).mean() < 0.01, (score, seed)
    means = {score: np.mean(values) for score, values in shares.items()}
    assert max(means.values()) < 0.12, means


def test_p_values_are_uniform_when_nothing_happens() -> None:
    wells = inert(3, 1.0)
    consistency = replicate_consistency(wells, permutations=300)
    assert kstest(consistency["p"], "uniform").pvalue > 0.01
    # All perturbations share the controls, so that their p are alike in one screen.
    p = []
    for seed in range(60):
        one = inert(seed, 1.0, width=16).select(Perturbation=["", "T000"])
        p.append(perturbation_strength(one, permutations=99)["p"].iloc[0])
    assert kstest(p, "uniform").pvalue > 0.01
    assert consistency["p"].min() >= 1 / 301


def test_the_controls_of_the_fit_make_noise_look_strong() -> None:
    """Why controls are held out: TVN shrinks those that it is fitted on."""
    noise = inert(0, 0.0, width=128)
    fitted = perturbation_strength(correct(noise, "tvn"), permutations=200)
    held_out, _ = correct_with_holdout(noise, "tvn")
    honest = perturbation_strength(held_out, permutations=200)
    assert (fitted["energy_q"] < 0.05).mean() > 0.9
    assert (honest["energy_q"] < 0.05).mean() < 0.01


def test_real_effects_are_found_through_plate_offsets() -> None:
    wells = inert(1, 2.0)
    names = wells.metadata["Metadata_Perturbation"].to_numpy(str)
    effect = np.random.default_rng(9).standard_normal((20, 64)).astype(np.float32)
    for i in range(20):
        wells.features[names == f"T{i:03d}"] += 1.5 * effect[i]
    strength = perturbation_strength(wells, permutations=1000)
    strong = strength["Metadata_Perturbation"] < "T020"
    assert (strength.loc[strong, "q"] < 0.05).all()
    assert (strength.loc[~strong, "q"] < 0.05).mean() < 0.05


def test_energy_distance_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((6, 3)) + 1
    want = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    assert energy_distance(x, y) == pytest.approx(want)
    pairs = {n: np.triu_indices(n, 1) for n in (4, 6)}
    for variant, metric in (("pertpy", "euclidean"), ("scperturb", "sqeuclidean")):
        within = sum(cdist(v, v, metric)[pairs[len(v)]].mean() for v in (x, y))
        want = 2 * cdist(x, y, metric).mean() - within
        assert energy_distance(x, y, variant) == pytest.approx(want)
        assert energy_distance(x[:1], y, variant) == pytest.approx(
            2 * cdist(x[:1], y, metric).mean() - cdist(y, y, metric)[pairs[6]].mean()
        )
    with pytest.raises(InputError, match="no energy distance 'e'"):
        energy_distance(x, y, "e")


def test_scores_of_one_plate_by_hand(screen: Profiles) -> None:
    once = screen.select(Experiment="E0", Plate="P0")
    row = (once.metadata["Metadata_Gene"] == "G003").to_numpy()
    controls = once.features[once.controls()].astype(np.float64)
    got = perturbation_strength(once, permutations=50).set_index("Metadata_Perturbation")
    x = once.features[row].astype(np.float64)
    assert got.loc["G003_g1", "strength"] == pytest.approx(np.linalg.norm(x - controls.mean(0)))
    assert got.loc["G003_g1", "energy"] == pytest.approx(energy_distance(x, controls))
    assert got.loc["G003_g1", "controls"] == 20


def test_one_replicate_or_few_controls(screen: Profiles) -> None:
    once = screen.select(Experiment="E0", Plate="P0")
    with pytest.raises(InputError, match="no replicates"):
        replicate_consistency(once)
    assert perturbation_strength(once, permutations=50)["p"].notna().all()
    few = once.take(np.r_[0, 20:60])  # one well against one control: one of two is always as far
    assert perturbation_strength(few, permutations=50)["p"].min() > 0.2
    apart = screen.take(~(screen.controls() & (screen.batches("plate") != "E0/P0").astype(bool)))
    table = perturbation_strength(apart, permutations=50)
    assert (table["replicates"] == 1).all()  # only the plate with controls counts


def test_scale_does_not_matter(screen: Profiles) -> None:
    twice = Profiles(screen.metadata, screen.features * np.float32(8), screen.names)
    for measure in (replicate_consistency, perturbation_strength):
        a, b = (measure(p, permutations=50)["p"] for p in (screen, twice))
        np.testing.assert_array_equal(a, b)
