"""Phenotypic activity and consistency: against copairs, and by hand."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import ActivitySpec, ConsistencySpec, Profiles, run
from mae_jax.evaluation.phenotypic import (
    by_perturbation,
    phenotypic_consistency,
    split_targets,
    summarize_nap,
)
from mae_jax.evaluation.retrieval import perturbation_retrieval


@pytest.fixture(scope="module")
def compounds() -> Profiles:
    """Two strata on 2 plates each: 12 compounds with up to three targets, 3 wells, 8 controls."""
    rng = np.random.default_rng(0)
    targets = ["A|B", "A", "A|C", "B", "B|C", "C", "A|D", "D", "unknown", "", "E|A", "B | C"]
    rows = []
    for stratum in ("high", "low"):
        for plate in range(2):
            for _ in range(8):
                rows.append((stratum, f"{stratum}{plate}", "DMSO", "", "negcon"))
            for i, target in enumerate(targets):
                rows += [(stratum, f"{stratum}{plate}", f"c{i:02d}", target, "")] * (1 + plate)
    names = ["Group", "Plate", "Perturbation", "Gene", "ControlType"]
    metadata = pd.DataFrame(rows, columns=[f"Metadata_{n}" for n in names])
    metadata["Metadata_Well"] = [f"W{i:03d}" for i in range(len(metadata))]
    center = {label: rng.standard_normal(6) for label in ["", *"ABCDE", "unknown"]}
    effects = [
        sum(center[t.strip()] for t in row[3].split("|")) + 0.7 * rng.standard_normal(6)
        for row in rows
    ]
    features = np.array(effects, np.float32)
    return Profiles(metadata, features, tuple("abcdef"))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_activity_is_copairs(compounds: Profiles, similarity: str) -> None:
    copairs = pytest.importorskip("copairs.map")
    from copairs.matching import assign_reference_index

    meta = compounds.metadata.assign(control=compounds.controls())
    meta = assign_reference_index(meta, "control", reference_col="ref", default_value=-1)
    both = ["Metadata_Perturbation", "Metadata_Group"]
    ap = copairs.average_precision(
        meta, compounds.features, [*both, "ref"], [], ["Metadata_Plate", "Metadata_Group"],
        ["Metadata_Perturbation", "control", "ref"], distance=similarity, progress_bar=False,
    )  # fmt: skip
    ap = ap[~ap["control"]]
    want = copairs.mean_average_precision(
        ap, both, null_size=4000, threshold=0.05, seed=0, progress_bar=False
    ).sort_values(both)
    got = perturbation_retrieval(
        compounds, within=["Metadata_Group"], similarity=similarity, rule="copairs", null_size=4000
    )
    groups = got.groups.sort_values(both)
    assert groups[both].to_numpy().tolist() == want[both].to_numpy().tolist()
    for mine, theirs in (
        ("map", "mean_average_precision"),
        ("nap", "mean_normalized_average_precision"),
    ):
        np.testing.assert_allclose(groups[mine], want[theirs], atol=1e-6)
    np.testing.assert_allclose(groups["p"], want["p_value"], atol=0.03)


def test_consistency_is_copairs_multilabel(compounds: Profiles) -> None:
    copairs = pytest.importorskip("copairs.map")
    treated = compounds.metadata.assign(control=compounds.controls()).join(
        pd.DataFrame(compounds.features, columns=list("abcdef"))
    )
    keys = ["Metadata_Perturbation", "Metadata_Gene", "Metadata_Group"]
    medians = treated[~treated["control"]].groupby(keys, as_index=False)[list("abcdef")].median()
    held = [sorted(split_targets(v)) for v in medians["Metadata_Gene"]]
    counts = pd.Series([t for own in held for t in own]).value_counts() / 2  # two strata
    medians["label"] = [[t for t in own if counts[t] >= 3] for own in held]
    medians = medians[medians["label"].str.len() > 0]
    parts = []
    for _, part in medians.groupby("Metadata_Group"):
        part = part.reset_index(drop=True)
        parts.append(
            copairs.multilabel.average_precision(
                part.drop(columns=list("abcdef")), part[list("abcdef")].to_numpy(np.float32),
                ["label", "Metadata_Group"], [], ["Metadata_Group"], ["label"],
                multilabel_col="label", progress_bar=False,
            )
        )  # fmt: skip
    both = ["label", "Metadata_Group"]
    want = copairs.mean_average_precision(
        pd.concat(parts), both, null_size=4000, threshold=0.05, seed=0, progress_bar=False
    ).sort_values(both)
    got = phenotypic_consistency(
        compounds, within=["Metadata_Group"], rule="copairs", null_size=4000
    )
    assert got.groups[both].to_numpy().tolist() == want[both].to_numpy().tolist()
    assert set(got.groups["label"]) == {"A", "B", "C"}
    np.testing.assert_allclose(got.groups["map"], want["mean_average_precision"], atol=1e-6)
    want_nap = want["mean_normalized_average_precision"]
    np.testing.assert_allclose(got.groups["nap"], want_nap, atol=1e-6)
    np.testing.assert_allclose(got.groups["p"], want["p_value"], atol=0.03)


def test_tables_of_strata_and_perturbations(compounds: Profiles) -> None:
    got = phenotypic_consistency(compounds, within=["Metadata_Group"], null_size=100)
    table = summarize_nap(got.groups, ["Metadata_Group"]).set_index("stratum")
    assert table.index.tolist() == ["high", "low", "all"]
    assert table.loc["all", "nap"] == pytest.approx(got.groups["nap"].mean())
    assert table.loc["low", "groups"] == 3
    own = by_perturbation(got, "Metadata_Perturbation", ["Metadata_Group"], null_size=100)
    first = own.iloc[0]
    assert first[["perturbation", "n", "Metadata_Group"]].tolist() == ["c00", 2, "high"]
    rows = got.queries.query("Metadata_Perturbation == 'c00' and Metadata_Group == 'high'")
    assert first["map"] == pytest.approx(rows["ap"].mean())
    few = phenotypic_consistency(compounds, max_targets=1, null_size=100)
    assert "c00" not in set(few.queries["Metadata_Perturbation"])
    nothing = phenotypic_consistency(compounds, min_perturbations=50)
    assert np.isnan(nothing.fraction)
    assert "no target has 50" in nothing.note


def test_an_unknown_similarity_is_refused(compounds: Profiles) -> None:
    with pytest.raises(InputError, match="no similarity 'l1'"):
        perturbation_retrieval(compounds, similarity="l1")


def test_specifications_save_one_row_per_perturbation(compounds: Profiles) -> None:
    options = {"embeddings": {"m": compounds}, "correction": "none", "within": ["Metadata_Group"]}
    for spec in (ActivitySpec(**options), ConsistencySpec(**options)):
        result = run(spec)
        rows = result.tables["perturbations"]
        assert rows.columns[:5].tolist() == ["perturbation", "n", "score", "p", "q"]
        assert rows[["perturbation", "Metadata_Group"]].duplicated().sum() == 0
        total = result.tables[spec.name].set_index("stratum").loc["all"]
        assert f"mean normalized AP {total['nap']:.4f}" in result.summary[0]
