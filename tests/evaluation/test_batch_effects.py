"""Batch mixing against scib-metrics' values, nearest neighbors against scikit-learn, leakage."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neighbors import NearestNeighbors as SkNeighbors

from mae_jax.errors import InputError
from mae_jax.evaluation import BatchEffectsSpec, ColumnSchema, NeighborsSpec, Profiles, run
from mae_jax.evaluation.batch_mixing import (
    batch_mixing,
    ilisi,
    kbet,
    lisi,
    neighbor_mixing,
    silhouette_batches,
    silhouette_labels,
)
from mae_jax.evaluation.leakage import leakage
from mae_jax.evaluation.neighbors import Neighbors, nearest_neighbors, neighbor_accuracy

ALL = ColumnSchema(controls="none")


def clusters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """600 rows of 8 labels in 5 batches."""
    rng = np.random.default_rng(0)
    labels, batches = rng.integers(0, 8, 600), rng.integers(0, 5, 600)
    centers, offsets = rng.standard_normal((8, 12)) * 1.5, rng.standard_normal((5, 12)) * 0.6
    x = centers[labels] + offsets[batches] + rng.standard_normal((600, 12))
    return x.astype(np.float32), labels, batches


def test_scores_are_scib_metrics() -> None:
    """What scib-metrics 0.5.10 gave on these rows and neighbors; live where it is installed."""
    x, labels, batches = clusters()
    neighbors = nearest_neighbors(x, 90)
    got = [
        ilisi(neighbors, batches),
        kbet(neighbors, batches),
        silhouette_batches(x, labels, batches),
        silhouette_batches(x, labels, batches, nearest=True),
        silhouette_labels(x, labels),
    ]
    want = [0.58881235, 0.72666667, 0.77487004, 0.83693284, 0.72698814]
    np.testing.assert_allclose(got, want, atol=2e-6)
    try:
        import scib_metrics
        from scib_metrics.nearest_neighbors import NeighborsResults
    except ImportError:
        return
    graph = NeighborsResults(indices=neighbors.indices, distances=neighbors.distances)
    live = [
        scib_metrics.ilisi_knn(graph, batches),
        scib_metrics.kbet(graph, batches)[0],
        scib_metrics.bras(x, labels, batches),
        scib_metrics.silhouette_batch(x, labels, batches, metric="cosine"),
        scib_metrics.silhouette_label(x, labels, metric="cosine"),
    ]
    np.testing.assert_allclose(got, live, atol=2e-6)


def test_scores_in_closed_form() -> None:
    """Equal distances: LISI is 1/Σ shares²; neighbors of one batch are rejected by kBET."""
    indices = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 3]])
    even = Neighbors(indices, np.ones((5, 4)))
    batches = np.array([0, 0, 1, 1, 1])
    assert lisi(even, batches, perplexity=4.0)[0] == pytest.approx(1 / (0.25**2 + 0.75**2))
    assert neighbor_mixing(even, batches) == pytest.approx((2 * 3 + 3 * 2) / 20)
    apart = np.repeat([0, 1], 20)
    own = np.array([[(i // 20) * 20 + (i + j) % 20 for j in range(1, 11)] for i in range(40)])
    assert kbet(Neighbors(own, np.ones((40, 10))), apart) == 0.0
    x, labels, batches = clusters()
    one = labels == 3
    want = 1 - np.abs(silhouette_samples(x[one], batches[one], metric="cosine")).mean()
    got = silhouette_batches(x[one], labels[one], batches[one], nearest=True)
    assert got == pytest.approx(want, abs=1e-6)


def test_permuted_batches_stand_beside_each_score() -> None:
    x, labels, batches = clusters()
    table = batch_mixing(x, labels, batches, k=30, permutations=5).set_index("score")
    mixed = ["k-NN mixing", "iLISI", "kBET", "BRAS", "silhouette of batches"]
    assert (table.loc[mixed, "value"] < table.loc[mixed, "permuted"]).all()
    assert table.loc["kBET", "permuted"] == pytest.approx(0.95, abs=0.05)
    shares = np.bincount(batches) / len(batches)
    expected = (1 - (shares**2).sum()) * 600 / 599
    assert table.loc["k-NN mixing", "permuted"] == pytest.approx(expected, abs=0.02)
    shuffled = np.random.default_rng(5).permutation(batches)
    random = batch_mixing(x, labels, shuffled, k=30, permutations=5).set_index("score").loc[mixed]
    assert (np.abs(random["value"] - random["permuted"]) < 0.05).all()
    with pytest.raises(InputError, match="single batch"):
        batch_mixing(x, labels, np.zeros(600))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbors_are_scikit_learns(metric: str) -> None:
    x, labels, _ = clusters()
    found = nearest_neighbors(x, 7, metric=metric)
    distances, indices = SkNeighbors(n_neighbors=8, metric=metric).fit(x).kneighbors(x)
    np.testing.assert_allclose(found.distances, distances[:, 1:], atol=1e-5)
    assert (found.indices == indices[:, 1:]).mean() > 0.999
    for k, label in (
        (1, labels),
        (5, labels % 2),
    ):  # an odd number of votes for two labels: no ties
        metadata = pd.DataFrame({"Metadata_Perturbation": label[:100].astype(str)})
        wells = Profiles(metadata, x[:100], tuple(map(str, range(12))))
        mine = neighbor_accuracy(wells, k=k, metric=metric, permutations=0, schema=ALL)
        right = []
        for i in range(100):
            others = np.arange(100) != i
            model = KNeighborsClassifier(k, metric=metric).fit(x[:100][others], label[:100][others])
            right.append(model.predict(x[i : i + 1])[0] == label[i])
        assert mine.accuracy == pytest.approx(np.mean(right))


def screen(
    seed: int, *, plate: float = 0.0, position: float = 0.0, effect: float = 0.0
) -> Profiles:
    """6 plates of 48 positions: 96 perturbations, each at 3 places that differ between plates."""
    rng = np.random.default_rng(seed)
    places, rows, features = rng.standard_normal((48, 24)), [], []
    effects = rng.standard_normal((96, 24))
    for p in range(6):
        order = rng.permutation(48) + 48 * (p % 2)
        offset = plate * rng.standard_normal(24)
        for well in range(48):
            rows.append((f"P{p}", f"W{well:02d}", f"T{order[well]:02d}", ""))
            x = offset + position * places[well] + effect * effects[order[well]]
            features.append(x + rng.standard_normal(24))
        for well in range(48, 52):
            rows.append((f"P{p}", f"W{well:02d}", "", "negcon"))
            features.append(offset + rng.standard_normal(24))
    columns = ["Plate", "Well", "Perturbation", "ControlType"]
    metadata = pd.DataFrame(rows, columns=[f"Metadata_{c}" for c in columns])
    return Profiles(metadata, np.array(features, np.float32), tuple(map(str, range(24))))


def test_votes_and_excluded_plates() -> None:
    x = np.array([[1.0], [1.1], [1.3], [5.0], [5.1]], np.float32)
    metadata = pd.DataFrame(
        {
            "Metadata_Perturbation": ["a", "b", "b", "a", "b"],
            "Metadata_Plate": ["P0", "P1", "P0", "P0", "P0"],
        }
    )
    wells = Profiles(metadata, x, ("x",))
    options = {"metric": "euclidean", "permutations": 0, "schema": ALL}
    # Of two neighbors with unlike labels the nearest counts: only the third row is right.
    assert neighbor_accuracy(wells, k=2, **options).accuracy == pytest.approx(1 / 5)
    apart = neighbor_accuracy(wells, unlike="plate", **options)
    assert apart.wells == 3  # "a" has wells on one plate alone
    assert apart.labels.set_index("perturbation").loc["b", "score"] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="no value of Metadata_Plate has two wells with different"):
        neighbor_accuracy(wells, label="Metadata_Plate", unlike="plate", schema=ALL)


def test_nearest_wells_find_effects_and_not_noise() -> None:
    found = neighbor_accuracy(screen(0, effect=2.0, plate=1.0), unlike="plate", permutations=99)
    assert found.accuracy > 0.7 > 0.05 > found.chance
    assert found.p == 0.01
    p = []
    for seed in range(12):
        noise = neighbor_accuracy(screen(seed, plate=2.0), permutations=99)
        p.append(noise.p)
        assert (noise.labels["q"] < 0.05).mean() < 0.02
    assert np.mean(np.array(p) <= 0.1) < 0.35
    assert np.mean(p) > 0.3


@pytest.mark.parametrize("check", ["position", "plate"])
def test_leakage_is_copairs_on_the_same_bins(check: str) -> None:
    copairs = pytest.importorskip("copairs.map")
    wells = screen(1, plate=0.5, position=0.5)
    wells = wells.take(~wells.controls())
    schema = ColumnSchema(controls="none")
    got = leakage(wells, check, schema=schema, seed=3, permutations=2)
    rng = np.random.default_rng(3)
    meta = wells.metadata.assign(
        near=rng.integers(0, 3, len(wells)), far=rng.integers(0, 11, len(wells))
    )
    plate, well, drug = "Metadata_Plate", "Metadata_Well", "Metadata_Perturbation"
    pairs = {
        "position": ([well], [plate, drug], [plate, "near"], [well, drug]),
        "plate": ([plate, "near"], [drug], ["far"], [plate, well, drug]),
    }[check]
    ap = copairs.average_precision(meta, wells.features, *pairs, progress_bar=False)
    ap = ap[(ap["n_pos_pairs"] > 0) & (ap["n_total_pairs"] > ap["n_pos_pairs"])]
    mine = got.queries.set_index("row").loc[ap.index]
    np.testing.assert_allclose(mine["ap"], ap["average_precision"], atol=1e-6)
    assert (mine["positives"].to_numpy() == ap["n_pos_pairs"].to_numpy()).all()
    group = well if check == "position" else plate
    assert got.groups[group].nunique() == (48 if check == "position" else 6)


def test_leakage_finds_positions_and_plates_and_not_noise() -> None:
    for check in ("position", "plate"):
        effects = {"position": 1.5} if check == "position" else {"plate": 1.5}
        found = leakage(screen(0, **effects), check, permutations=4)
        assert found.nap > 0.3 > 0.1 > abs(found.nap_permuted)
        assert found.groups["retrieved"].mean() > 0.8
        assert found.nap == pytest.approx(found.groups["nap"].mean())
        p = []
        for seed in range(2):
            noise = leakage(screen(seed), check, permutations=4)
            p += noise.groups["p"].tolist()
            assert noise.groups["retrieved"].mean() < 0.03
            assert abs(noise.nap) < 0.05
        assert np.mean(np.array(p) < 0.05) < 0.12
        assert 0.3 < np.mean(p) < 0.7
    offsets = leakage(screen(2, plate=2.0), "position", permutations=4)
    assert offsets.groups["retrieved"].mean() < 0.03
    with pytest.raises(InputError, match="no check 'row'"):
        leakage(screen(0), "row")
    layout = screen(0).select(Plate="P0")
    twice = Profiles(
        pd.concat([layout.metadata, layout.metadata.assign(Metadata_Plate="P9")]),
        np.concatenate([layout.features] * 2),
        layout.names,
    )
    assert "unlike perturbations share a position" in leakage(twice, "position").note


def test_specifications() -> None:
    wells = screen(0, plate=1.0, effect=1.0)
    options = {"embeddings": {"m": wells}, "correction": "center-plate"}
    result = run(BatchEffectsSpec(**options, neighbors=20, permutations=2))
    assert set(result.tables) == {"mixing", "leakage", "positions", "plates"}
    assert result.tables["leakage"]["check"].tolist() == ["position", "plate"]
    assert len(result.summary) == 8
    result = run(NeighborsSpec(**options, permutations=20))
    assert result.tables["accuracy"]["neighbors"].tolist() == ["any", "of another plate"]
    columns = ["perturbation", "n", "score", "p", "q"]
    assert result.tables["perturbations"].columns[:5].tolist() == columns
