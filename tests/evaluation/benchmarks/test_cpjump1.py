"""CPJUMP1's benchmark on its real profiles, where they are at hand."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles, cpjump1
from mae_jax.evaluation.benchmarks import CPJUMP1BenchmarkSpec, run

PLATES = ("BR00117010", "BR00117011", "BR00117012", "BR00117013")


@pytest.fixture
def profiles(shared_data: Path) -> Profiles:
    """Four plates of compounds, U2OS, 48 hours; counts are made up."""
    parts = []
    for plate in PLATES:
        name = f"{plate}_normalized_feature_select_negcon_batch.csv.gz"
        parts.append(pd.read_csv(shared_data / "cpjump1_profiles" / name))
    table = pd.concat(parts, ignore_index=True)
    names = [c for c in table if not c.startswith("Metadata_")]
    names = [n for n in names if "ZBF" not in n and "Brightfield" not in n][:60]
    metadata = table[["Metadata_Plate", "Metadata_Well"]].astype(str)
    return Profiles(metadata, table[names].fillna(0).to_numpy(np.float32), tuple(names))


def test_other_plates_are_missing(profiles, shared_data):
    with pytest.raises(InputError, match=r"15,264 wells, of which CellProfiler lacks 13,728 on 36"):
        run(
            CPJUMP1BenchmarkSpec(
                embeddings={"CellProfiler": profiles}, metadata=shared_data / "cpjump1_design"
            )
        )


def test_files_stand_where_fetch_puts_them(shared_data, tmp_path):
    design = shared_data / "cpjump1_design"
    batch = tmp_path / "metadata" / "platemaps" / "2020_11_04_CPJUMP1"
    (batch / "platemap").mkdir(parents=True)
    (tmp_path / "metadata" / "external_metadata").mkdir()
    for path in design.iterdir():
        folder = tmp_path / "metadata" / "external_metadata"
        if path.suffix == ".txt":
            folder = batch / "platemap"
        elif path.name == "experiment-metadata.tsv":
            folder = tmp_path
        shutil.copy(path, folder / path.name)
    pd.testing.assert_frame_equal(cpjump1.wells(tmp_path), cpjump1.wells(design))
    (tmp_path / "experiment-metadata.tsv").unlink()
    with pytest.raises(InputError, match="benchmark/output of the repository"):
        cpjump1.wells(tmp_path)


@pytest.mark.slow
def test_fractions_against_a_plain_computation(profiles, shared_data):
    rng = np.random.default_rng(0)
    counts = rng.normal(size=(len(profiles), 1)).astype(np.float32)
    with_counts = Profiles(
        profiles.metadata,
        np.concatenate([profiles.features, counts], axis=1),
        (*profiles.names, "Nuclei_Number_Object_Number"),
    )
    spec = CPJUMP1BenchmarkSpec(
        embeddings={"ours": with_counts},
        metadata=shared_data / "cpjump1_design",
        allow_missing=True,
        correction="none",
        splits=2,
        sibling_null_size=1000,
    )
    result = run(spec)
    scores = result.tables["scores"]
    scores = scores[scores["metric"] == "perturbation, compound_U2OS_long"]
    ours = scores[scores["model"] == "ours"].set_index("protocol")

    platemap = pd.read_csv(
        shared_data / "cpjump1_design" / "JUMP-Target-1_compound_platemap.txt", sep="\t", dtype=str
    )
    sample = platemap.set_index("well_position")["broad_sample"]
    labels = profiles.metadata["Metadata_Well"].map(sample)
    control = labels.isna().to_numpy()
    x = with_counts.features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    plates = profiles.metadata["Metadata_Plate"].to_numpy()
    aps, p = {}, {}
    for name, rows in pd.Series(np.arange(len(x))).groupby(labels.to_numpy()):
        for i in rows:
            mates = rows[rows != i].to_numpy()
            against = np.flatnonzero(control & (plates == plates[i]))
            truth = np.r_[np.ones(len(mates)), np.zeros(len(against))]
            ap = average_precision_score(truth, cosines[i, np.r_[mates, against]])
            aps.setdefault((name, len(mates), len(against)), []).append(ap)
    nulls: dict[tuple[int, int], np.ndarray] = {}
    for m, n in {key[1:] for key in aps}:
        if m == 3:
            subsets = itertools.combinations(range(1, m + n + 1), m)
            ranks = np.array(list(subsets))
        else:
            ranks = np.sort(np.argsort(rng.random((20_000, m + n)), axis=1)[:, :m] + 1)
        nulls[m, n] = (np.arange(1, m + 1) / ranks).mean(axis=1)
    for (name, m, n), values in aps.items():
        above = np.array([(nulls[m, n] > value + 1e-9).mean() for value in values])
        p.setdefault(name, []).extend((1 + 10_000 * above) / 10_001)
    values = np.array([10 ** np.mean(np.log10(each)) for each in p.values()])
    fraction = (false_discovery_control(values) < 0.05).mean()
    assert len(values) == 306
    assert ours.loc["controls of the fit", "value"] == pytest.approx(fraction, abs=1.5 / 306)
    # Without a correction, half of the controls tell nearly the same.
    assert ours.loc["held-out controls", "value"] == pytest.approx(fraction, abs=0.06)
    assert (ours["low"] < ours["value"]).all()
    # Random counts retrieve nothing.
    count = scores[scores["model"] == "cell count"]
    assert (count["value"] < 0.05).all()
    published = scores[~scores["measured"]].set_index("model")["value"]
    assert published["cellprofiler, JUMP-CP"] == 0.66
    assert result.tables["coverage"]["scored"].tolist() == [1536, 1536]
