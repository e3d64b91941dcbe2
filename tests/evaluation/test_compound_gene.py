"""Compound–gene interactions: against scikit-learn on the same draws, and what noise gives."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from mae_jax.errors import InputError
from mae_jax.evaluation import CompoundGeneSpec, Profiles, run
from mae_jax.evaluation.compound_gene import compound_gene_benchmark, dose_map

DOSES = (0.1, 1.0, 10.0)


def rxrx(seed: int = 0, effect: float = 2.0) -> tuple[Profiles, pd.DataFrame]:
    """60 genes with 2 guides, 12 compounds at 3 doses that act on 1 to 3 genes, 2 wells each."""
    rng = np.random.default_rng(seed)
    genes = [f"G{i:02d}" for i in range(60)]
    effects = {gene: rng.standard_normal(16) for gene in genes}
    rows, features, truth = [], [], []
    for gene in genes:
        for guide in range(2):
            rows.append((f"{gene}_guide_{guide}", "CRISPR", ""))
            features.append(effects[gene] + 0.3 * rng.standard_normal(16))
    for i in range(12):
        own = rng.choice(genes, 3, replace=False)
        names = [f"cpd{i}", f"cpd{i}", f"cpd{i}"]
        truth += list(zip(names, own, [5.0, [5.0, 4000.0][i % 2], 50_000.0], strict=True))
        for dose in (*DOSES, 0.026):  # a stray dose that is left out
            for _ in range(2):
                rows.append((f"cpd{i}", "COMPOUND", str(dose)))
                vector = effect * dose / 10 * effects[own[0]]
                features.append(vector + rng.standard_normal(16))
    rows += [("EMPTY_control", "CRISPR", ""), ("DMSO_control", "COMPOUND", "")]
    features += [rng.standard_normal(16)] * 2
    truth += [("not_there", "G00", 5.0), ("cpd0", "G99", 5.0)]
    metadata = pd.DataFrame(
        rows, columns=["Metadata_treatment", "Metadata_perturbation_type", "Metadata_concentration"]
    )
    profiles = Profiles(metadata, np.array(features, np.float32), tuple(map(str, range(16))))
    return profiles, pd.DataFrame(truth, columns=["treatment", "gene_symbol", "nM_value"])


def test_is_scikit_learn_on_the_same_draws() -> None:
    profiles, truth = rxrx()
    compounds, genes = dose_map(profiles)
    got = compound_gene_benchmark(compounds, genes, truth, doses=DOSES, seeds=[3, 4])
    pool = sorted(set(truth["gene_symbol"]) & set(genes.index))
    want: dict[object, list[list[float]]] = {dose: [] for dose in (*DOSES, "max")}
    wanted_auc = []
    for name in sorted(set(truth["treatment"]) - {"not_there"}):
        nm = truth[truth["treatment"] == name].set_index("gene_symbol")["nM_value"]
        positive = [g for g in pool if nm.get(g, np.inf) <= 1000]
        eligible = [g for g in pool if not nm.get(g, np.inf) <= 10_000]
        by_seed: dict[object, list[float]] = {dose: [] for dose in want}
        for seed in (3, 4):
            count = max(2 * len(positive), 20)
            drawn = np.random.default_rng(seed).choice(np.arange(len(eligible)), count, False)
            items = positive + [eligible[i] for i in drawn]
            labels = [g in positive for g in items]
            cosines = np.array(
                [
                    np.abs(cosine_similarity(compounds.loc[[(name, dose)]], genes.loc[items])[0])
                    for dose in DOSES
                ]
            )
            for dose, scores in zip(want, [*cosines, cosines.max(axis=0)], strict=True):
                by_seed[dose].append(average_precision_score(labels, scores))
            wanted_auc.append(roc_auc_score(labels, cosines.max(axis=0)))
        for dose, values in by_seed.items():
            want[dose].append(values)
    summary = got.summary.set_index("dose")
    assert summary["compounds"].tolist() == [12] * 4
    for dose, values in want.items():
        row = summary.loc[str(dose) if dose == "max" else f"{dose:g}"]
        means = np.mean(values, axis=0)
        assert row["ap"] == pytest.approx(means.mean(), abs=1e-6)
        assert row["ap_std"] == pytest.approx(means.std(ddof=1), abs=1e-6)
    assert summary.loc["max", "auc"] == pytest.approx(np.mean(wanted_auc), abs=1e-6)
    np.testing.assert_allclose(
        got.compounds.sort_values("perturbation")["score"], np.mean(want["max"], axis=1), atol=1e-6
    )
    assert "1 genes of the truth table are not in the map, and 1 of its compounds" in got.note


def test_genes_are_found_by_effect_and_not_in_noise() -> None:
    profiles, truth = rxrx(effect=4.0)
    found = compound_gene_benchmark(*dose_map(profiles), truth, doses=DOSES, seeds=range(10))
    best = found.summary.set_index("dose").loc["max"]
    assert best["ap"] > best["ap_random"] + 0.2
    assert best["z"] > 5
    small, apart = [], []
    for seed in range(12):
        profiles, truth = rxrx(seed, effect=0.0)
        noise = compound_gene_benchmark(*dose_map(profiles), truth, doses=DOSES, seeds=range(10))
        small += noise.compounds["p"].tolist()
        best = noise.summary.set_index("dose").loc["max"]
        apart.append(best["ap"] - best["ap_random"])
        assert (noise.compounds["q"] < 0.05).mean() <= 1 / 12
    assert 0.2 < np.mean(np.array(small) <= 0.5) < 0.65
    assert np.mean(np.array(small) <= 0.05) < 0.1
    assert abs(np.mean(apart)) < 0.04


def test_the_order_of_the_truth_table_does_not_matter() -> None:
    profiles, truth = rxrx()
    a, b = (
        compound_gene_benchmark(*dose_map(profiles), table, doses=DOSES, seeds=[0])
        for table in (truth, truth.sample(frac=1, random_state=1))
    )
    pd.testing.assert_frame_equal(a.summary, b.summary)
    pd.testing.assert_frame_equal(a.compounds, b.compounds)


def test_bad_tables_are_refused() -> None:
    profiles, truth = rxrx()
    maps = dose_map(profiles)
    with pytest.raises(InputError, match="no column 'nM_value'"):
        compound_gene_benchmark(*maps, truth.drop(columns="nM_value"))
    with pytest.raises(InputError, match="row 3 of the truth table has no number"):
        compound_gene_benchmark(*maps, truth.assign(nM_value=[1, 1, "x", *[1] * (len(truth) - 3)]))
    with pytest.raises(InputError, match="no compound of the truth table can be tested"):
        compound_gene_benchmark(*maps, truth.assign(treatment="other"))
    with pytest.raises(InputError, match="no wells of compounds"):
        dose_map(profiles, compound_kind="DRUG")
    profiles.metadata.loc[120, "Metadata_concentration"] = "high"
    with pytest.raises(InputError, match="of cpd0 is 'high', not a number"):
        dose_map(profiles)


def test_specification() -> None:
    profiles, truth = rxrx()
    spec = CompoundGeneSpec(
        embeddings={"m": profiles}, interactions=truth, correction="none", draws=5
    )
    result = run(spec)
    columns = ["perturbation", "n", "score", "p", "q"]
    assert result.tables["perturbations"].columns[:5].tolist() == columns
    assert "± " in result.summary[0]
    assert "sorted list" in result.summary[1]
