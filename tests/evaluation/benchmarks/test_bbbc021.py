"""BBBC021: wells, NSC and NSCB; baselines; coverage of the benchmark's wells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.benchmarks import (
    BBBC021Spec,
    coverage,
    run,
)
from mae_jax.evaluation.benchmarks.bbbc021 import annotated_wells


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def value(result, metric: str, model: str = "ours", protocol: str | None = None) -> float:
    rows = result.tables["scores"].query("metric == @metric and model == @model")
    if protocol is not None:
        rows = rows.query("protocol == @protocol")
    return float(rows["value"].iloc[0])


def bbbc021_profiles(folder: Path, seed: int = 0) -> Profiles:
    wells = annotated_wells(BBBC021Spec(embeddings={}, metadata=folder))
    rng = np.random.default_rng(seed)
    effects = {m: 2 * rng.standard_normal(6) for m in sorted(set(wells["Metadata_MoA"]))}
    effects[""] = np.zeros(6)
    x = np.array([effects[m] + 0.6 * rng.standard_normal(6) for m in wells["Metadata_MoA"]])
    keys = wells[["Metadata_Plate", "Metadata_Well"]].astype(str)
    return Profiles(keys, x.astype(np.float32), tuple("abcdef"))


def test_bbbc021s_wells_leave_plate_controls_out(bbbc021):
    wells = annotated_wells(BBBC021Spec(embeddings={}, metadata=bbbc021))
    taxol = wells[wells["Metadata_Compound"] == "taxol"]
    # The dose series alone: row D of week 1, not the controls of row H on all plates.
    assert set(taxol["Metadata_Well"]) == {"D04", "D05"}
    assert set(taxol["Metadata_Week"]) == {"Week1"}
    assert (wells["Metadata_Treatment"] == "DMSO").sum() == 36
    assert len(wells) == 36 + 6 * 2 * 3


def test_bbbc021_against_a_plain_computation(bbbc021):
    profiles = bbbc021_profiles(bbbc021)
    spec = BBBC021Spec(embeddings={"ours": profiles}, metadata=bbbc021, permutations=20)
    result = run(spec)
    wells = annotated_wells(spec)
    x = profiles.features.astype(np.float64)
    for plate in set(wells["Metadata_Plate"]):
        rows = (wells["Metadata_Plate"] == plate).to_numpy()
        dmso = x[rows & (wells["Metadata_Compound"] == "DMSO").to_numpy()]
        x[rows] = (x[rows] - dmso.mean(axis=0)) / dmso.std(axis=0)
    treated = wells["Metadata_MoA"] != ""
    means = pd.DataFrame(x).groupby(wells["Metadata_Treatment"]).mean()
    about = wells[treated].drop_duplicates("Metadata_Treatment").set_index("Metadata_Treatment")
    names = list(about.index)
    cosines = unit(means.loc[names].to_numpy())
    cosines = cosines @ cosines.T
    for metric, columns in (
        ("NSC", ["Metadata_Compound"]),
        ("NSCB", ["Metadata_Compound", "Metadata_Week"]),
    ):
        hits, tested = 0, 0
        for i, name in enumerate(names):
            own = about.loc[name]
            others = [
                j for j, other in enumerate(names)
                if all(about.loc[other, c] != own[c] for c in columns)
            ]  # fmt: skip
            if any(about.iloc[j]["Metadata_MoA"] == own["Metadata_MoA"] for j in others):
                best = max(others, key=lambda j: cosines[i, j])
                hits += about.iloc[best]["Metadata_MoA"] == own["Metadata_MoA"]
                tested += 1
        assert tested == 12
        assert value(result, metric) == pytest.approx(hits / tested)
    assert "mechanism" in result.tables["treatments"]


def test_baselines_that_are_not_given_are_visible(bbbc021):
    result = run(BBBC021Spec(embeddings={"ours": bbbc021_profiles(bbbc021)}, metadata=bbbc021))
    scores = result.tables["scores"].set_index("model")
    assert "--counts FILE" in scores.loc["cell count", "source"].iloc[0]
    assert "mae-jax embed --encoder RUN/untrained" in scores.loc["untrained", "source"].iloc[0]
    assert scores.loc["cell count", "value"].isna().all()
    assert scores.loc["CellProfiler (factor analysis)", "value"] == 0.94
    assert set(result.figures) == {"NSC", "NSCB"}
    assert any("not given" in line for line in result.summary)


def test_baselines_that_are_given(bbbc021, tmp_path):
    profiles = bbbc021_profiles(bbbc021)
    mechanism = annotated_wells(BBBC021Spec(embeddings={}, metadata=bbbc021))["Metadata_MoA"]
    # Counts that give mechanisms away: the nearest count finds every one.
    counts = mechanism.map({"": 500, "A": 400, "B": 300, "T": 100})
    counts = counts + np.random.default_rng(3).normal(0, 2, len(counts))
    table = profiles.metadata.assign(Count_Cells=counts)
    table.columns = [c.removeprefix("Metadata_") for c in table.columns]
    table.to_csv(tmp_path / "counts.csv", index=False)
    spec = BBBC021Spec(
        embeddings={"ours": profiles, "untrained": bbbc021_profiles(bbbc021, seed=5)},
        metadata=bbbc021,
        counts=tmp_path / "counts.csv",
    )
    result = run(spec)
    assert value(result, "NSCB", "cell count") == 1.0
    assert 0 <= value(result, "NSCB", "untrained") <= 1
    assert not any("not given" in line for line in result.summary)


def test_missing_wells_are_refused_or_listed(bbbc021):
    profiles = bbbc021_profiles(bbbc021)
    few = profiles.take(np.arange(3, len(profiles)))
    other = profiles.take(np.arange(len(profiles) - 1))
    models = {"ours": few, "theirs": other}
    spec = BBBC021Spec(embeddings=models, metadata=bbbc021)
    with pytest.raises(
        InputError, match=r"bbbc021 has 72 wells, of which ours lacks 3 on 1 plates"
    ):
        run(spec)
    allowed = BBBC021Spec(embeddings=models, metadata=bbbc021, allow_missing=True)
    table = coverage(allowed).set_index("model")
    assert table.loc["ours"].tolist() == [72, 69, 3, 68]
    assert table.loc["theirs"].tolist() == [72, 71, 1, 68]
    missing = run(allowed).tables["missing"]
    assert missing["model"].tolist() == ["ours"] * 3 + ["theirs"]
    twice = profiles.take(np.r_[0, np.arange(len(profiles))])
    with pytest.raises(InputError, match="more than once"):
        run(BBBC021Spec(embeddings={"ours": twice}, metadata=bbbc021))
    with pytest.raises(InputError, match="has no BBBC021_v1_image"):
        run(BBBC021Spec(embeddings=models, metadata=bbbc021 / "elsewhere"))
    strangers = Profiles(
        profiles.metadata.assign(Metadata_Plate="P" + profiles.metadata["Metadata_Plate"]),
        profiles.features,
        profiles.names,
    )
    with pytest.raises(InputError, match="in common"):
        run(BBBC021Spec(embeddings={"ours": strangers}, metadata=bbbc021, allow_missing=True))


def test_files_stand_where_fetch_puts_them(bbbc021):
    there = bbbc021 / "metadata"
    there.mkdir()
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"):
        (bbbc021 / name).rename(there / name)
    assert len(annotated_wells(BBBC021Spec(embeddings={}, metadata=bbbc021))) == 72


def test_wells_match_whatever_their_zeros(bbbc021):
    profiles = bbbc021_profiles(bbbc021)
    short = profiles.metadata["Metadata_Well"].str.replace("0", "", regex=False)
    other = Profiles(
        profiles.metadata.assign(Metadata_Well=short), profiles.features, profiles.names
    )
    assert coverage(BBBC021Spec(embeddings={"a": other}, metadata=bbbc021))["missing"].sum() == 0
