"""Held-out controls: a stratified, seeded split, and scores that a correction cannot flatter."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.cli.main import main
from mae_jax.errors import InputError
from mae_jax.evaluation import ColumnSchema, Correction, Profiles, RetrievalSpec, fit, run
from mae_jax.evaluation.holdout import (
    Holdout,
    correct_with_holdout,
    held_out_controls,
    held_out_plates,
    held_out_treatments,
    interval,
)


def test_half_of_each_plate(screen: Profiles) -> None:
    held_out = held_out_controls(screen, 0.5)
    assert not held_out[~screen.controls()].any()
    plates = screen.batches("plate")
    assert {int(held_out[plates == p].sum()) for p in set(plates)} == {10}
    assert (held_out_controls(screen, 0.5) == held_out).all()
    assert (held_out_controls(screen, 0.5, seed=1) != held_out).any()
    assert not held_out_controls(screen, 0.0).any()
    assert held_out_controls(screen, 0.999).sum() == 6 * 19  # one a plate is left to fit on
    assert held_out_controls(screen, 0.001).sum() == 6


def test_neither_the_order_nor_other_plates_matter(screen: Profiles) -> None:
    want = held_out_controls(screen)
    order = np.random.default_rng(0).permutation(len(screen))
    np.testing.assert_array_equal(held_out_controls(screen.take(order)), want[order])
    one = (screen.batches("plate") == "E1/P1").astype(bool)
    np.testing.assert_array_equal(held_out_controls(screen.take(one)), want[one])


def test_what_cannot_be_split(screen: Profiles) -> None:
    with pytest.raises(InputError, match=r"must be in \[0, 1\)"):
        held_out_controls(screen, 1.0)
    few = screen.take(np.r_[0, 20:60])
    with pytest.raises(InputError, match="plate E0/P0 has a single negative control"):
        held_out_controls(few)


@pytest.mark.parametrize("fit_on", ["controls", "all"])
def test_the_fit_never_sees_them(screen: Profiles, fit_on: str) -> None:
    held_out = held_out_controls(screen)
    wells, fitted = correct_with_holdout(screen, "tvn", fit_on=fit_on)
    assert wells.controls().sum() == held_out.sum()
    assert len(wells) == 360 - held_out.sum()
    screen.features[held_out] *= 100  # changes the held-out controls alone
    again = fit(screen.take(~held_out), "tvn", fit_on=fit_on)
    assert fitted is not None
    for key, want in fitted.steps[0].arrays().items():
        np.testing.assert_array_equal(again.steps[0].arrays()[key], want)
    all_wells, _ = correct_with_holdout(screen, "tvn", fraction=0.0)
    assert len(all_wells) == 360


def test_the_paper_protocol_flatters_tvn_on_noise(make_screen: Callable[..., Profiles]) -> None:
    """With more features than controls a batch, TVN shrinks the controls of its fit alone."""
    screen = make_screen(genes=100, controls=16, experiments=2, plates=2, width=64)
    screen.features[:] = np.random.default_rng(1).standard_normal(screen.features.shape)
    results = {
        fraction: run(
            RetrievalSpec(
                embeddings={"noise": screen},
                schema=ColumnSchema(),
                correction="tvn",
                holdout_controls=fraction,
                null_size=2000,
            )
        )
        for fraction in (0.0, 0.5)
    }
    ap = {f: r.tables["retrieval"]["map"].mean() for f, r in results.items()}
    chance = dict.fromkeys(ap, 0.0)
    for f, n in ((0.0, 16), (0.5, 8)):  # three positives among n controls
        ranks = np.argsort(np.random.default_rng(0).random((20000, n + 3)), axis=1)
        places = np.sort(np.argwhere(ranks < 3)[:, 1].reshape(-1, 3), axis=1) + 1
        chance[f] = float((np.arange(1, 4) / places).mean())
    assert ap[0.0] > chance[0.0] + 0.1
    assert ap[0.5] == pytest.approx(chance[0.5], abs=0.05)
    assert "paper protocol" in results[0.0].summary[-1]
    assert "held-out controls (0.5" in str(results[0.5].settings["controls_of_the_score"])


def test_a_correction_knows_its_wells(screen: Profiles, tmp_path: Path) -> None:
    held_out = held_out_controls(screen)
    fitted = fit(screen.take(~held_out), "tvn")
    np.testing.assert_array_equal(fitted.saw(screen.metadata), screen.controls() & ~held_out)
    fitted.save(tmp_path / "fit.npz")
    again = Correction.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(again.saw(screen.metadata), fitted.saw(screen.metadata))
    new = fit(screen.select(Experiment="E0"), "tvn").fit_missing_batches(screen)
    np.testing.assert_array_equal(new.saw(screen.metadata), screen.controls())
    assert not fit(screen, "none").saw(screen.metadata).any()


def test_scores_warn_of_controls_that_the_correction_saw(
    screen: Profiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.write(tmp_path / "a.parquet")
    correct = ["correct", "--embeddings", str(tmp_path / "a.parquet"), "--holdout-controls"]
    score = ["evaluate", "retrieval", "--correction", "none", "--null-size", "200", "--embeddings"]
    for share, seen in (("0", 60), ("0.5", 0)):
        out = tmp_path / f"tvn{share}.parquet"
        assert main([*correct, share, "--out", str(out)]) == 0
        capsys.readouterr()
        assert main([*score, str(out), "--out", str(tmp_path / f"scores{share}")]) == 0
        printed = capsys.readouterr().out
        assert (f"{seen} of the negative controls that the score uses were seen" in printed) == (
            seen > 0
        )
    stream = [*correct, "0.5", "--stream", "--out", str(tmp_path / "stream.parquet")]
    assert main(stream) == 0
    streamed, whole = (Profiles.read(tmp_path / f"{n}.parquet") for n in ("stream", "tvn0.5"))
    np.testing.assert_allclose(streamed.features, whole.features, atol=1e-4)
    pd.testing.assert_frame_equal(streamed.metadata, whole.metadata)


def test_several_splits_give_a_spread(screen: Profiles) -> None:
    options = {"embeddings": {"a": screen}, "null_size": 500, "correction": "center-plate"}
    one = run(RetrievalSpec(**options))
    several = run(RetrievalSpec(holdout_splits=3, **options))
    pd.testing.assert_frame_equal(one.tables["retrieval"], several.tables["retrieval"])
    splits = several.tables["splits"]
    assert splits["seed"].tolist() == [0, 1, 2]
    assert splits["fraction"].iloc[0] == one.tables["retrieval"]["retrieved"].mean()
    second = run(RetrievalSpec(seed=1, **options)).tables["retrieval"]["retrieved"].mean()
    assert splits["fraction"].iloc[1] == second
    assert any("over 3 splits of the controls" in line for line in several.summary)
    assert "splits" not in one.tables
    with pytest.raises(InputError, match="1 where no controls are held out"):
        run(RetrievalSpec(holdout_splits=2, holdout_controls=0.0, **options))


def test_treatments_are_split_by_jump_lites_rule(screen: Profiles) -> None:
    """Sort each stratum by SHA-256("seed\\0stratum\\0id"); the first ⌊.2n + .5⌋ are for the fit."""
    metadata = screen.metadata.assign(
        Metadata_Group=np.where(screen.metadata["Metadata_Gene"] < "G013", "orf", "crispr")
    )
    grouped = Profiles(metadata, screen.features, screen.names)
    held_out = held_out_treatments(grouped, 0.8, strata="Metadata_Group", seed=20260811)
    want: set[str] = set()
    for group in ("orf", "crispr"):
        ids = metadata["Metadata_Perturbation"][
            (metadata["Metadata_Group"] == group) & ~screen.controls()
        ].unique()
        key = {i: hashlib.sha256(f"20260811\0{group}\0{i}".encode()).digest() for i in ids}
        want |= set(sorted(ids, key=key.__getitem__)[math.floor(0.2 * len(ids) + 0.5) :])
    assert set(metadata["Metadata_Perturbation"][held_out]) == want
    assert len(want) == 10 + 22  # of 13 and 27
    assert not held_out[screen.controls()].any()
    np.testing.assert_array_equal(
        held_out, grouped.metadata["Metadata_Perturbation"].isin(want).to_numpy()
    )
    other = held_out_treatments(grouped, 0.8, strata="Metadata_Group", seed=1)
    assert (other != held_out).any()
    with pytest.raises(InputError, match="40 treatments cannot be split"):
        held_out_treatments(screen, 0.01)
    with pytest.raises(InputError, match=r"held-out treatments must be in \[0, 1\)"):
        held_out_treatments(screen, 1.5)


def test_a_treatment_in_two_strata_is_on_one_side(screen: Profiles) -> None:
    metadata = screen.metadata.assign(
        Metadata_Group=screen.metadata["Metadata_Experiment"].where(
            screen.metadata["Metadata_Gene"] < "G020", "all"
        )
    )
    grouped = Profiles(metadata, screen.features, screen.names)
    held_out = held_out_treatments(grouped, 0.5, strata="Metadata_Group")
    sides = pd.Series(held_out).groupby(metadata["Metadata_Perturbation"]).nunique()
    assert (sides == 1).all()
    joined = metadata[~screen.controls() & (metadata["Metadata_Gene"] < "G020")]
    ids = joined["Metadata_Perturbation"].unique()
    key = {i: hashlib.sha256(f"0\0E0|E1|E2\0{i}".encode()).digest() for i in ids}
    want = set(sorted(ids, key=key.__getitem__)[10:])
    assert set(joined["Metadata_Perturbation"][held_out[joined.index]]) == want


def test_the_fit_sees_neither_held_out_treatments_nor_plates(screen: Profiles) -> None:
    holdout = Holdout(controls=0.5, treatments=0.5, plates=0.4, seed=3)
    treatments = held_out_treatments(screen, 0.5, seed=3)
    plates = held_out_plates(screen, 0.4, seed=3)
    assert len(np.unique(screen.batches("plate")[plates])) == 2  # ⌊.6 · 6 + .5⌋ = 4 are left
    controls = held_out_controls(screen, 0.5, seed=3)
    method = "int|pca:components=8,fit=all|center-scale"
    wells, fitted = correct_with_holdout(screen, method, holdout=holdout)
    assert fitted is not None
    assert len(wells) == 2 * (20 + 10)
    assert set(wells.metadata["Metadata_Perturbation"]) == {
        "DMSO",
        *screen.metadata["Metadata_Perturbation"][treatments],
    }
    seen = fitted.saw(screen.metadata)
    assert not seen[treatments | controls].any()
    # Of held-out plates, only the controls for the fit, which the plates' own parts need.
    np.testing.assert_array_equal(seen & plates, screen.controls() & ~controls & plates)
    moved = Profiles(screen.metadata, screen.features.copy(), screen.names)
    moved.features[treatments | controls] += 100
    _, again = correct_with_holdout(moved, method, holdout=holdout)
    assert again is not None
    for a, b in zip(fitted.steps, again.steps, strict=True):
        for key, array in a.arrays().items():
            np.testing.assert_array_equal(b.arrays()[key], array)
    assert "controls (0.5 of each plate), treatments held out (0.5), plates held out (0.4)" in (
        holdout.describe()
    )
    with pytest.raises(InputError, match="6 plates cannot be split"):
        held_out_plates(screen, 0.05)
    harmony, none = correct_with_holdout(screen, "none", holdout=holdout)
    assert none is not None
    assert len(harmony) == len(wells)


def test_held_out_treatments_on_the_command_line(
    screen: Profiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.write(tmp_path / "a.parquet")
    command = ["evaluate", "retrieval", "--embeddings", str(tmp_path / "a.parquet")]
    command += ["--correction", "select|center-plate", "--null-size", "200"]
    command += ["--holdout-treatments", "0.5", "--holdout-splits", "3"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "over 3 splits of the controls and treatments" in printed
    assert "treatments held out (0.5)" in printed
    splits = pd.read_csv(tmp_path / "out" / "splits.csv")["fraction"]
    mean, low, high = interval(splits.to_list())
    assert f"{mean:.3f} [{low:.3f}, {high:.3f}]" in printed
    half = 4.302653 * splits.std() / np.sqrt(3)  # t(2), 97.5 %
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-5)
    assert len(pd.read_csv(tmp_path / "out" / "retrieval.csv")) == 20
    # Corrected first, by the same rule, and scored then: the same, or a warning.
    for share, seen in (("0.5", False), ("0", True)):
        out = ["--out", str(tmp_path / f"{share}.parquet"), "--holdout-treatments", share]
        method = ["--method", "select|center-plate", "--holdout-controls", "0.5"]
        assert main(["correct", "--embeddings", str(tmp_path / "a.parquet"), *method, *out]) == 0
        capsys.readouterr()
        score = ["evaluate", "retrieval", "--embeddings", out[1], "--correction", "none"]
        score += ["--null-size", "200", "--holdout-treatments", "0.5"]
        assert main([*score, "--out", str(tmp_path / "again"), "--overwrite"]) == 0
        printed = capsys.readouterr().out
        assert ("120 of the held-out treatments' wells" in printed) == seen
        tables = [pd.read_csv(tmp_path / n / "retrieval.csv") for n in ("out", "again")]
        if not seen:
            pd.testing.assert_frame_equal(*(t.drop(columns="embeddings") for t in tables))
    assert np.isnan(interval([0.5])[1])
