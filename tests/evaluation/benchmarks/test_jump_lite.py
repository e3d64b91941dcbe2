"""JUMP-lite: activity, consistency, divisions and recipes equal plain computations."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn.metrics import average_precision_score

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.benchmarks import (
    JumpLiteSpec,
    run,
)
from mae_jax.evaluation.benchmarks.jump_lite import (
    ACTIVITY,
    CONSISTENCY,
    all_recipes,
    recipe,
    selection_mask,
    well_table,
)
from mae_jax.evaluation.corrections import correct, steps_of


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def value(result, metric: str, model: str = "ours", protocol: str | None = None) -> float:
    rows = result.tables["scores"].query("metric == @metric and model == @model")
    if protocol is not None:
        rows = rows.query("protocol == @protocol")
    return float(rows["value"].iloc[0])


def nap(ap: float, m: int, n: int) -> float:
    """Normalized AP from the expectation of AP over all rankings, by simulation-free algebra."""
    total = m + n
    harmonic = sum(1 / k for k in range(1, total + 1))
    chance = ((m - 1) / (total - 1) * (total - harmonic) + harmonic) / total
    return (ap - chance) / (1 - chance)


def test_jump_lite_against_a_plain_computation(jump_lite):
    folder, profiles = jump_lite
    spec = JumpLiteSpec(
        embeddings={"ours": profiles}, metadata=folder, recipes=("standardize-plate:fit=all",),
        splits=3, split_seed=7, null_size=50,
    )  # fmt: skip
    result = run(spec)
    wells = well_table(spec)
    control = (wells["Metadata_pert_type"] == "negcon").to_numpy()
    activity, consistency = [], []
    for seed in (7, 8, 9):
        chosen = selection_mask(wells, seed)
        x = profiles.features.astype(np.float64)
        for plate in set(wells["Metadata_Plate"]):
            rows = (wells["Metadata_Plate"] == plate).to_numpy()
            fitted = x[rows & (control | chosen)]
            x[rows] = (x[rows] - fitted.mean(axis=0)) / fitted.std(axis=0)
        cosines = unit(x) @ unit(x).T
        units: dict[tuple[str, str], list[float]] = {}
        tested = np.flatnonzero(~control & ~chosen)
        keys = list(zip(wells["Metadata_JCP2022"], wells["Metadata_Group"], strict=True))
        for i in tested:
            mates = [j for j in tested if keys[j] == keys[i] and j != i]
            same_plate = (wells["Metadata_Plate"] == wells["Metadata_Plate"][i]).to_numpy()
            against = np.flatnonzero(control & same_plate)
            if mates:
                truth = np.r_[np.ones(len(mates)), np.zeros(len(against))]
                ap = average_precision_score(truth, cosines[i, np.r_[mates, against]])
                units.setdefault(keys[i], []).append(nap(ap, len(mates), len(against)))
        activity.append(np.mean([np.mean(v) for v in units.values()]))

        frame = pd.DataFrame(x[tested]).assign(
            jcp=wells["Metadata_JCP2022"].to_numpy()[tested],
            target=wells["Metadata_Targets"].to_numpy()[tested],
            group=wells["Metadata_Group"].to_numpy()[tested],
        )
        frame = frame[frame["group"].isin(["group_high", "group_low"]) & (frame["target"] != "")]
        medians = frame.groupby(["jcp", "target", "group"]).median().reset_index()
        count = medians.groupby("target")["jcp"].nunique()
        medians = medians[medians["target"].isin(count.index[count >= 3])].reset_index(drop=True)
        own = unit(medians.drop(columns=["jcp", "target", "group"]).to_numpy(float))
        cosines = own @ own.T
        of_targets: dict[tuple[str, str], list[float]] = {}
        for i, row in medians.iterrows():
            inside = (medians["group"] == row["group"]) & (medians.index != i)
            mates = np.flatnonzero(inside & (medians["target"] == row["target"]))
            against = np.flatnonzero(inside & (medians["target"] != row["target"]))
            if len(mates) and len(against):
                truth = np.r_[np.ones(len(mates)), np.zeros(len(against))]
                ap = average_precision_score(truth, cosines[i, np.r_[mates, against]])
                key = (row["target"], row["group"])
                of_targets.setdefault(key, []).append(nap(ap, len(mates), len(against)))
        consistency.append(np.mean([np.mean(v) for v in of_targets.values()]))

    fit = "controls of the fit"
    assert value(result, ACTIVITY, protocol=fit) == pytest.approx(np.mean(activity), abs=1e-6)
    assert value(result, CONSISTENCY, protocol=fit) == pytest.approx(np.mean(consistency), abs=1e-6)
    row = result.tables["scores"].query("metric == @ACTIVITY and protocol == @fit").iloc[0]
    half = student.ppf(0.975, 2) * np.std(activity, ddof=1) / np.sqrt(3)
    assert row["high"] - row["low"] == pytest.approx(2 * half, abs=1e-6)
    held = value(result, ACTIVITY, protocol="held-out controls")
    assert held != pytest.approx(np.mean(activity), abs=1e-9)
    assert len(result.tables["recipes"]) == 6  # three splits, two protocols


def test_jump_lite_selects_by_the_product_of_both_scores(jump_lite):
    folder, profiles = jump_lite
    spec = JumpLiteSpec(
        embeddings={"ours": profiles}, metadata=folder, splits=1, null_size=20,
        recipes=("none", "standardize-plate:fit=all"),
    )  # fmt: skip
    result = run(spec)
    trials = result.tables["recipes"]
    for _, rows in trials.groupby("protocol"):
        product = np.ones(len(rows))
        for name in ("activity", "consistency"):
            values = rows[name].fillna(0).to_numpy()
            if np.ptp(values) > 0:
                product *= (values - values.min()) / np.ptp(values)
        best = rows.loc[product == product.max(), "recipe"].min()
        assert rows.loc[rows["selected"], "recipe"].tolist() == [best]
    assert "one division" in " ".join(result.summary)
    with pytest.raises(InputError, match="splits must be 1 or more"):
        run(JumpLiteSpec(embeddings={"a": profiles}, metadata=folder, splits=0))


def test_jump_lite_divides_treatments_by_their_digests(jump_lite):
    folder, profiles = jump_lite
    wells = well_table(JumpLiteSpec(embeddings={"ours": profiles}, metadata=folder))
    mask = selection_mask(wells, 20260811)
    crispr = wells[wells["Metadata_Group"] == "group_crispr"]
    names = sorted(set(crispr.loc[crispr["Metadata_pert_type"] == "trt", "Metadata_JCP2022"]))
    text = "20260811\0group_crispr\0{}"
    names.sort(key=lambda n: hashlib.sha256(text.format(n).encode()).hexdigest())
    assert set(crispr.loc[mask[crispr.index], "Metadata_JCP2022"]) == set(names[:3])  # of 16
    # A compound of both groups is of one stratum, and on one side in both.
    both = wells[mask & (wells["Metadata_Perturbation_Type"] == "compound")]
    assert (both.groupby("Metadata_JCP2022")["Metadata_Group"].nunique() == 2).all()
    assert not mask[(wells["Metadata_pert_type"] == "negcon").to_numpy()].any()
    # Excluded annotations are no targets.
    targets = wells.set_index("Metadata_JCP2022")["Metadata_Targets"]
    assert set(targets["JCP2022_000001"]) == {"TG1"}
    assert set(targets["JCP2022_800100"]) == {""}


def test_jump_lites_recipes_are_its_formulas(jump_lite):
    folder, profiles = jump_lite
    spec = JumpLiteSpec(embeddings={"ours": profiles}, metadata=folder)
    wells = well_table(spec)
    screen = Profiles(wells.astype(str), profiles.features, profiles.names)
    chosen = selection_mask(wells, 1)
    control = (wells["Metadata_pert_type"] == "negcon").to_numpy()
    from mae_jax.evaluation.benchmarks.jump_lite import SCHEMA

    got = correct(
        screen, recipe("robustmad_all__tvn_efaar_e0.2_c6"), schema=SCHEMA,
        fit_rows=chosen | control,
    ).features  # fmt: skip
    x = profiles.features.astype(np.float64)
    for plate in set(wells["Metadata_Plate"]):
        rows = (wells["Metadata_Plate"] == plate).to_numpy()
        fitted = x[rows & (chosen | control)]
        median = np.median(fitted, axis=0)
        x[rows] = (x[rows] - median) / (np.median(np.abs(fitted - median), axis=0) + 1e-18)
    x = (x - x[control].mean(axis=0)) / x[control].std(axis=0)
    center = x[control].mean(axis=0)
    axes = np.linalg.svd(x[control] - center, full_matrices=False)[2][:6]
    x = (x - center) @ axes.T
    batches = wells["Metadata_Batch"].to_numpy()
    scaled = np.empty_like(x)
    for batch in set(batches):
        own = batches == batch
        part = x[own & control]
        scaled[own] = (x[own] - part.mean(axis=0)) / part.std(axis=0)

    def root(matrix: np.ndarray, power: float) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * values**power) @ vectors.T

    eye = 0.2 * np.eye(6)
    pooled = root(np.cov(scaled[control].T) + eye, 0.5)
    for batch in set(batches):
        own = batches == batch
        whiten = root(np.cov(scaled[own & control].T) + eye, -0.5)
        scaled[own] = scaled[own] @ whiten @ pooled
    # Axes have no sign, so cosines are compared.
    np.testing.assert_allclose(
        unit(got.astype(float)) @ unit(got.astype(float)).T,
        unit(scaled) @ unit(scaled).T,
        atol=2e-4,
    )


def test_all_of_jump_lites_recipes_are_chains():
    names = all_recipes()
    assert len(set(names)) == 175
    for name in names:
        assert len(steps_of(recipe(name))) == (2 if name.startswith("none") else 3)
    assert "components=128," in recipe("std_ctrl__tvn_efaar_e0.1")
    assert recipe("mad|tvn") == "mad|tvn"


def test_an_interrupted_selection_goes_on(jump_lite, tmp_path):
    folder, profiles = jump_lite
    spec = JumpLiteSpec(
        embeddings={"ours": profiles}, metadata=folder, splits=1, null_size=20,
        recipes=("none", "standardize-plate:fit=all"),
    )  # fmt: skip

    class Stop(Exception):
        pass

    tried: list[str] = []

    def interrupt(message: str) -> None:
        tried.append(message)
        if len(tried) == 4:
            raise Stop

    with pytest.raises(Stop):
        run(spec, interrupt, tmp_path / "work")
    kept = len(list((tmp_path / "work").iterdir()))
    assert kept >= 1
    again: list[str] = []
    result = run(spec, again.append, tmp_path / "work")
    assert len([m for m in again if m.startswith("  ")]) == 4 - kept  # two protocols, two recipes
    plain = run(spec)
    pd.testing.assert_frame_equal(result.tables["scores"], plain.tables["scores"])
    pd.testing.assert_frame_equal(result.tables["recipes"], plain.tables["recipes"])
