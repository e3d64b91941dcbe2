"""Perturbation and sibling retrieval, and CPJUMP1's own design."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from mae_jax.errors import InputError
from mae_jax.evaluation import ColumnSchema, Profiles, correct, cpjump1
from mae_jax.evaluation.retrieval import consensus, perturbation_retrieval, sibling_retrieval


def test_perturbation_ap_is_the_definition(screen: Profiles) -> None:
    fixed = correct(screen, "center-plate")
    got = perturbation_retrieval(fixed, null_size=200).queries.set_index("row")
    cosines = cosine_similarity(fixed.features)
    label = fixed.metadata["Metadata_Perturbation"].to_numpy()
    plate, control = fixed.batches("plate"), fixed.controls()
    assert len(got) == (~control).sum()
    for i in np.flatnonzero(~control)[::17]:
        same = (label == label[i]) & (np.arange(len(label)) != i)
        against = control & (plate == plate[i])
        used = same | against
        want = average_precision_score(same[used], cosines[i, used])
        assert got.loc[i, "ap"] == pytest.approx(want, abs=1e-6)
        assert (got.loc[i, "positives"], got.loc[i, "negatives"]) == (5, 20)


@pytest.mark.parametrize("rule", ["copairs", "2023"])
def test_strong_perturbations_are_retrieved_and_null_ones_are_not(
    make_screen: Callable[..., Profiles], rule: str
) -> None:
    screen = correct(make_screen(genes=40, width=16), "center-plate")
    null = screen.column("Metadata_Gene").isin([f"G{i:03d}" for i in range(20)]).to_numpy()
    rng = np.random.default_rng(0)
    control = np.flatnonzero(screen.controls())
    # The first twenty genes are wells like any control.
    screen.features[null] = screen.features[rng.choice(control, null.sum())]
    screen.features[null] += 0.5 * rng.standard_normal((null.sum(), 16))
    found = perturbation_retrieval(screen, rule=rule)
    by = found.groups.set_index("Metadata_Perturbation")["retrieved"]
    assert by.iloc[20:].mean() > 0.7
    assert by.iloc[:20].mean() < 0.3
    assert found.fraction == pytest.approx(by.mean())


def test_queries_without_replicates_or_controls(screen: Profiles) -> None:
    once = screen.select(Experiment="E0", Plate="P0")
    found = perturbation_retrieval(once)
    assert np.isnan(found.fraction)
    assert "two replicates" in found.note
    lone = screen.take(~(screen.controls() & (screen.batches("plate") == "E1/P0")))
    with pytest.raises(InputError, match="E1/P0 has treated wells but no negative control"):
        perturbation_retrieval(lone)


def test_consensus_is_the_median(screen: Profiles) -> None:
    got = consensus(screen.take(~screen.controls()))
    assert got.metadata["Metadata_Perturbation"].tolist() == [f"G{i:03d}_g1" for i in range(40)]
    rows = (screen.metadata["Metadata_Gene"] == "G007").to_numpy()
    np.testing.assert_allclose(got.features[7], np.median(screen.features[rows], axis=0))


def kin(labels: list[str], features: np.ndarray) -> Profiles:
    metadata = pd.DataFrame(
        {
            "Metadata_Perturbation": [f"p{i:02d}" for i in range(len(labels))],
            "Metadata_Gene": labels,
            "Metadata_ControlType": ["negcon"] + [""] * (len(labels) - 1),
        }
    )
    return Profiles(metadata, features.astype(np.float32), ("a", "b", "c"))


def test_siblings_of_several_targets() -> None:
    """Negatives share no target with the query; a compound counts for each of its targets."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((7, 3))
    profiles = kin(["", "A|B", "A", "B", "C", "C", ""], features)
    everyone = [f"p{i:02d}" for i in range(7)]
    got = sibling_retrieval(profiles, everyone, null_size=200).queries
    seen = {(r.Metadata_Perturbation, r.label): r for r in got.itertuples()}
    assert set(seen) == {
        ("p01", "A"), ("p01", "B"), ("p02", "A"), ("p03", "B"), ("p04", "C"), ("p05", "C"),
    }  # fmt: skip
    cosines = cosine_similarity(features)
    assert seen["p01", "A"].positives == 1
    assert seen["p01", "A"].negatives == 3  # C, C and the one without a target
    against = [cosines[2, j] for j in (3, 4, 5, 6)]  # p02 shares nothing with B, C
    rank = 1 + sum(v > cosines[2, 1] for v in against)
    assert seen["p02", "A"].ap == pytest.approx(1 / rank)


def test_opposite_compounds_are_siblings_by_absolute_cosine() -> None:
    x = np.array([[9, 9, 9], [1, 0, 0], [-1, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1], [0, 0, 1.0]])
    profiles = kin(["", "A", "A", "B", "C", "D"], x)
    names = [f"p{i:02d}" for i in range(6)]
    ap = {
        absolute: sibling_retrieval(profiles, names, absolute=absolute, null_size=50)
        .queries.set_index("Metadata_Perturbation")["ap"]
        .to_dict()
        for absolute in (False, True)
    }
    assert ap[True] == {"p01": 1.0, "p02": 1.0}
    assert max(ap[False].values()) < 0.5


def test_guides_without_a_sister_are_no_negatives() -> None:
    """As published: a gene with one retrieved guide is left out before ranking."""
    rng = np.random.default_rng(3)
    profiles = kin(["", "A", "A", "B", "B", "C", "D"], rng.standard_normal((7, 3)))
    names = [f"p{i:02d}" for i in range(7)]
    every = sibling_retrieval(profiles, names, null_size=50).queries
    sisters = sibling_retrieval(profiles, names, drop_without_sibling=True, null_size=50).queries
    assert set(every["negatives"]) == {4}
    assert set(sisters["negatives"]) == {2}
    assert list(every["label"]) == list(sisters["label"]) == ["A", "A", "B", "B"]
    lone = sibling_retrieval(profiles, names[5:], drop_without_sibling=True)
    assert "none of the 2 retrieved perturbations has a sibling" in lone.note


def test_no_siblings_is_a_result() -> None:
    profiles = kin(["", "A", "B", "C"], np.eye(4)[:, :3])
    none = sibling_retrieval(profiles, ["p01", "p02", "p03"])
    assert np.isnan(none.fraction)
    assert "has a sibling" in none.note
    assert "no perturbation was retrieved" in sibling_retrieval(profiles, []).note


def test_lincs_plate(shared_data: Path) -> None:
    """One real plate: compounds in six doses; the doses of a compound find each other."""
    plate = Profiles.read(shared_data / "profiles" / "SQ00015054_normalized_feature_select.csv.gz")
    schema = ColumnSchema(
        controls="Metadata_broad_sample=DMSO", perturbation="Metadata_broad_sample",
        experiment="Metadata_Batch_Number",
    )  # fmt: skip
    found = perturbation_retrieval(plate, by="Metadata_broad_sample", schema=schema)
    assert len(found.groups) > 50
    assert 0.2 < found.fraction < 1
    shuffled = np.random.default_rng(0).permutation(len(plate))
    noise = Profiles(plate.metadata, plate.features[shuffled], plate.names)
    assert perturbation_retrieval(noise, by="Metadata_broad_sample", schema=schema).fraction < 0.1


def test_cpjump1_plates_and_wells(shared_data: Path) -> None:
    folder = shared_data / "cpjump1_design"
    plates = cpjump1.select_plates(folder)
    assert len(plates) == 40
    assert plates["plate"].is_unique
    counts = plates.groupby("modality")["condition"].nunique()
    assert counts.to_dict() == {"compound": 4, "crispr": 4, "orf": 4}
    published = pd.read_csv(folder / "published_cellprofiler_replicability_fr.csv")
    theirs = published["Modality"] + "_" + published["Cell"] + "_" + published["time"]
    assert set(theirs) == set(plates["condition"])
    wells = cpjump1.wells(folder)
    assert not wells.duplicated(["Metadata_Plate", "Metadata_Well"]).any()
    one = wells[wells["Metadata_Plate"] == plates["plate"][0]]
    assert len(one) == 384
    assert (one["Metadata_control_type"] == "negcon").sum() == 64


def test_cpjump1_benchmark_end_to_end(shared_data: Path) -> None:
    """Made-up embeddings on the real design: compounds act, ORFs do nothing."""
    folder = shared_data / "cpjump1_design"
    known = cpjump1.wells(folder)
    known = known[known["Metadata_Condition"].isin(["compound_A549_short", "orf_U2OS_long"])]
    rng = np.random.default_rng(0)
    effect = {s: rng.standard_normal(24) for s in set(known["Metadata_broad_sample"])}
    acts = (known["Metadata_Modality"] == "compound") & (known["Metadata_control_type"] == "")
    x = rng.standard_normal((len(known), 24))
    x += np.stack([effect[s] for s in known["Metadata_broad_sample"]]) * acts.to_numpy()[:, None]
    raw = Profiles(
        known[["Metadata_Plate", "Metadata_Well"]].reset_index(drop=True),
        x.astype(np.float32),
        tuple(f"f{i}" for i in range(24)),
    )
    order = rng.permutation(len(raw))
    profiles = cpjump1.annotate(raw.take(order), folder)
    assert len(profiles) == len(raw)
    table, results = cpjump1.benchmark(
        profiles,
        null_size=500,
        correct=lambda p: correct(p, "tvn", batch="plate", schema=cpjump1.SCHEMA),
    )
    by = table.set_index("condition")
    assert by.loc["compound_A549_short", "perturbation"] > 0.7
    assert by.loc["orf_U2OS_long", "perturbation"] < 0.2
    assert np.isnan(by.loc["orf_U2OS_long", "siblings"])  # ORFs have none
    assert by.loc["orf_U2OS_long", "note"]
    assert by.loc["compound_A549_short", "siblings"] < 0.3  # targets mean nothing here
    assert by["plates"].to_dict() == {"compound_A549_short": 4, "orf_U2OS_long": 2}
    summary = cpjump1.summary(table).set_index("task")
    values = table["perturbation"].to_numpy()
    assert summary.loc["perturbation", "std"] == pytest.approx(values.std(ddof=1))
    assert summary.loc["siblings", "conditions"] == 1
    assert ("compound_A549_short", "siblings") in results


def test_cpjump1_siblings_keep_positive_controls(shared_data: Path) -> None:
    """Published siblings leave out negative controls and empty wells alone."""
    folder = shared_data / "cpjump1_design"
    known = cpjump1.wells(folder)
    condition = "crispr_U2OS_long"
    known = known[known["Metadata_Condition"] == condition].reset_index(drop=True)
    assert (known["Metadata_broad_sample"] != "").all()
    rng = np.random.default_rng(0)
    effect = {g: rng.standard_normal(16) for g in set(known["Metadata_Gene"])}
    x = 0.1 * rng.standard_normal((len(known), 16))
    acts = (known["Metadata_control_type"] != "negcon").to_numpy()
    x += np.stack([effect[g] for g in known["Metadata_Gene"]]) * acts[:, None]
    names = tuple(f"f{i}" for i in range(16))
    profiles = Profiles(known, x.astype(np.float32), names)
    table, results = cpjump1.benchmark(profiles, null_size=500, sibling_null_size=500)
    positive = known["Metadata_control_type"].str.startswith("poscon")
    reagents = set(known.loc[positive, "Metadata_broad_sample"])
    assert len(reagents) > 10
    siblings = results[condition, "siblings"].queries
    genes = known.drop_duplicates("Metadata_broad_sample").set_index("Metadata_broad_sample")
    counts = genes.loc[genes["Metadata_control_type"] != "negcon", "Metadata_Gene"].value_counts()
    paired = {r for r in reagents if counts[genes.loc[r, "Metadata_Gene"]] > 1}
    assert paired
    assert paired <= set(siblings["Metadata_broad_sample"])
    assert table["siblings"].iloc[0] > 0.9


def test_cpjump1_wants_its_own_plates(shared_data: Path, screen: Profiles) -> None:
    with pytest.raises(InputError, match="none of CPJUMP1's 40"):
        cpjump1.annotate(screen, shared_data / "cpjump1_design")
    with pytest.raises(InputError, match=r"experiment-metadata.tsv does not exist"):
        cpjump1.select_plates(shared_data)
