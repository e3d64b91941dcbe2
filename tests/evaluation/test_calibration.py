"""p-values and q-values where nothing happens: few replicates, few controls, uneven plates."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.evaluation import Profiles, RetrievalSpec, run
from mae_jax.evaluation.average_precision import group_significance
from mae_jax.evaluation.retrieval import Retrieval, fraction_over_seeds, perturbation_retrieval


def noise(seed: int, replicates: int, controls: list[int]) -> Profiles:
    """200 perturbations without effect on plates with the given numbers of controls."""
    rows = [(f"P{p}", "", "negcon") for p, count in enumerate(controls) for _ in range(count)]
    for i in range(200):
        rows += [(f"P{(i + r) % len(controls)}", f"T{i:03d}", "") for r in range(replicates)]
    columns = ["Metadata_Plate", "Metadata_Perturbation", "Metadata_ControlType"]
    metadata = pd.DataFrame(rows, columns=columns)
    features = np.random.default_rng(seed).standard_normal((len(rows), 32)).astype(np.float32)
    return Profiles(metadata, features, tuple(map(str, range(32))))


@pytest.mark.parametrize(
    ("replicates", "controls"), [(2, [8] * 4), (2, [32] * 2), (4, [10, 14, 18, 22])]
)
def test_conservative_p_is_small_no_more_often_than_it_says(
    replicates: int, controls: list[int]
) -> None:
    groups = pd.concat(
        perturbation_retrieval(noise(s, replicates, controls), rule="conservative").groups
        for s in range(2)
    )
    assert (groups["p"] < 0.05).mean() < 0.09
    assert 0.1 < (groups["p"] < 0.3).mean() < 0.35
    assert (groups["q"] < 0.05).mean() < 0.005


def test_the_published_rule_calls_perfect_rankings_among_few_controls_significant() -> None:
    """Two replicates that are both first among 8 controls: p = 1/(1 + S) by "copairs"."""
    scores = perturbation_retrieval(noise(0, 2, [8] * 4), rule="copairs")
    perfect = scores.groups["map"] == 1
    assert perfect.mean() > 0.02
    assert (scores.groups.loc[perfect, "q"] < 0.05).all()
    both = {
        rule: group_significance(scores.queries, "Metadata_Perturbation", rule=rule)
        for rule in ("copairs", "conservative")
    }
    assert (both["conservative"]["p"] >= both["copairs"]["p"] - 0.02).all()
    assert both["conservative"]["p"].min() == pytest.approx(1 / 9, abs=0.001)
    options = {"embeddings": {"m": noise(0, 2, [8] * 4)}, "correction": "none"}
    lines = run(RetrievalSpec(**options, holdout_controls=0.0)).summary
    assert any("by chance once in 9, which --rule copairs calls significant" in x for x in lines)
    lines = run(RetrievalSpec(**options, holdout_controls=0.0, rule="conservative")).summary
    assert not any("by chance" in x or "seeds of the null" in x for x in lines)


def test_the_spread_over_seeds_is_that_of_the_fraction() -> None:
    found = perturbation_retrieval(noise(0, 3, [12] * 4), null_size=300)
    queries, by = found.queries, "Metadata_Perturbation"
    queries["ap"] = np.linspace(0.2, 1, len(queries))  # p near the threshold among them
    for rule in ("copairs", "conservative", "2023"):
        options = {"rule": rule, "null_size": 300}
        want = [
            group_significance(queries, by, seed=seed, **options)["retrieved"].mean()
            for seed in range(3)
        ]
        result = Retrieval(want[0], found.groups, queries)
        low, high = fraction_over_seeds(result, by, **options)
        assert (low, high) == (min(want), max(want))
        assert (low < high) == (rule == "copairs")
