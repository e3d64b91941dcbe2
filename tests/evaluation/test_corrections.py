"""The nine corrections against scikit-learn and against TVN step by step as EFAAR does it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from mae_jax.errors import InputError
from mae_jax.evaluation import (
    CORRECTIONS,
    TABLE2,
    ColumnSchema,
    Correction,
    Profiles,
    correct,
    fit,
)
from mae_jax.evaluation.corrections import steps_of

# Table 2 and the centered TVN; test_correction_steps.py has the other steps.
EVERY = [*TABLE2, "tvn-centered"]


def reference_tvn(screen: Profiles, batch: np.ndarray, center: bool = False) -> np.ndarray:
    """TVN in four steps, each with scikit-learn or scipy, the slow way."""
    control = screen.controls()
    x = screen.features.astype(np.float64)
    x = StandardScaler().fit(x[control]).transform(x)
    x = PCA().fit(x[control]).transform(x)
    x = StandardScaler().fit(x[control]).transform(x)
    for b in np.unique(batch):
        mine = batch == b
        c = x[mine & control]
        if center:
            x[mine] -= c.mean(axis=0)
        cov = np.cov(c, rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        x[mine] = x[mine] @ scipy.linalg.fractional_matrix_power(cov, -0.5)
    return x


def up_to_signs(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """`got` with the principal axes' arbitrary signs set as in `want`; only for rotated rows."""
    return got * np.sign((got * want).sum(axis=0))


@pytest.mark.parametrize("center", [False, True])
def test_tvn_is_efaars(screen: Profiles, center: bool) -> None:
    want = reference_tvn(screen, screen.batches("experiment"), center)
    got = correct(screen, "tvn-centered" if center else "tvn").features
    # Signs of axes are arbitrary, and the symmetric root turns with them: all that is defined
    # are inner products.
    np.testing.assert_allclose(got @ got.T, want @ want.T, rtol=2e-4, atol=2e-3)


def test_tvn_leaves_plate_offsets_but_its_variant_does_not(screen: Profiles) -> None:
    control = screen.controls()
    batch = screen.batches("experiment")
    for method, moved in [("tvn", True), ("tvn-centered", False)]:
        x = correct(screen, method).features
        means = np.stack([x[control & (batch == b)].mean(0) for b in np.unique(batch)])
        assert (np.abs(means).max() > 0.1) == moved


@pytest.mark.parametrize("fit_on", ["controls", "all"])
@pytest.mark.parametrize("group", ["plate", "experiment"])
@pytest.mark.parametrize("what", ["center", "standardize"])
def test_center_and_standardize(screen: Profiles, what: str, group: str, fit_on: str) -> None:
    batch = screen.batches(group)
    assert len(np.unique(batch)) == (6 if group == "plate" else 3)
    reference = screen.controls() if fit_on == "controls" else np.ones(len(screen), bool)
    want = np.empty_like(screen.features)
    for b in np.unique(batch):
        scaler = StandardScaler(with_std=what == "standardize")
        scaler.fit(screen.features[(batch == b) & reference])
        want[batch == b] = scaler.transform(screen.features[batch == b])
    got = correct(screen, f"{what}-{group}", fit_on=fit_on)
    np.testing.assert_allclose(got.features, want, atol=2e-5)
    assert got.names == screen.names


@pytest.mark.parametrize("group", ["plate", "experiment"])
def test_pca_then_standardize(screen: Profiles, group: str) -> None:
    control, batch = screen.controls(), screen.batches(group)
    want = PCA().fit(screen.features[control]).transform(screen.features).astype(np.float64)
    pca = correct(screen, "pca").features
    np.testing.assert_allclose(up_to_signs(pca, want), want, atol=1e-4)
    for b in np.unique(batch):
        rows = batch == b
        want[rows] = StandardScaler().fit(want[rows & control]).transform(want[rows])
    got = correct(screen, f"pca-standardize-{group}").features
    np.testing.assert_allclose(up_to_signs(got, want), want, atol=2e-3)


def test_no_transformation_changes_nothing(screen: Profiles) -> None:
    np.testing.assert_array_equal(correct(screen, "none").features, screen.features)


@pytest.mark.parametrize("method", EVERY)
def test_order_of_rows_does_not_matter(screen: Profiles, method: str) -> None:
    order = np.random.default_rng(1).permutation(len(screen))
    want = correct(screen, method).features[order]
    got = correct(screen.take(order), method).features
    # The signs of the axes hang on rounding; inner products do not.
    if "pca" in method or "tvn" in method:
        got, want = got @ got.T, want @ want.T
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("method", EVERY)
def test_saved_and_applied_again(screen: Profiles, method: str, tmp_path) -> None:
    fitted = fit(screen, method)
    fitted.save(tmp_path / "fit.npz")
    again = Correction.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(
        again.transform(screen).features, fitted.transform(screen).features
    )
    assert again.spec == fitted.spec
    assert again.schema == fitted.schema


@pytest.mark.parametrize("method", EVERY)
def test_new_plates_land_in_the_same_space(screen: Profiles, method: str) -> None:
    old = screen.select(Experiment=["E0", "E1"])
    fitted = fit(old, method)
    together = fitted.transform(screen)
    np.testing.assert_allclose(
        together.features[: len(old)], fitted.transform(old).features, rtol=1e-5, atol=1e-5
    )
    new = fitted.transform(screen.select(Experiment="E2"))
    assert new.names == together.names
    np.testing.assert_allclose(new.features, together.features[len(old) :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", EVERY)
def test_constant_features_and_fewer_controls_than_features(
    make_screen: Callable[..., Profiles], method: str
) -> None:
    screen = make_screen(width=40, experiments=2, plates=1, controls=6)
    screen.features[:, 3] = 7.3
    out = correct(screen, method).features
    assert np.isfinite(out).all()
    # Rounding in a direction without variance must not be blown up to a signal.
    assert np.abs(out).max() < 1e3


def test_bad_input_is_named(screen: Profiles) -> None:
    with pytest.raises(InputError, match="did you mean 'tvn'"):
        correct(screen, "tvm")
    with pytest.raises(InputError, match=r"Metadata_Batch.*did you mean"):
        correct(screen, "tvn", batch="Metadata_Batch")
    with pytest.raises(InputError, match="has no value DMSO"):
        correct(screen, "pca", schema=ColumnSchema(controls="Metadata_ControlType=DMSO"))
    lone = screen.take(~(screen.controls() & (screen.batches("plate") == "E1/P0")))
    with pytest.raises(InputError, match="E1/P0 has 0"):
        correct(lone, "center-plate")
    one = np.flatnonzero(screen.controls() & (screen.batches("plate") == "E1/P0"))[1:]
    keep = np.setdiff1d(np.arange(len(screen)), one)
    assert len(correct(screen.take(keep), "center-plate")) == len(keep)
    with pytest.raises(InputError, match=r"at least 2 negative controls.*E1/P0 has 1"):
        correct(screen.take(keep), "standardize-plate")
    other = Profiles(screen.metadata, screen.features[:, :5], screen.names[:5])
    with pytest.raises(InputError, match="fitted on 12 features"):
        fit(screen, "tvn").transform(other)


def test_a_mean_far_from_zero_costs_no_digits(screen: Profiles) -> None:
    far = Profiles(screen.metadata, screen.features + np.float32(4096), screen.names)
    near = Profiles(screen.metadata, far.features - np.float32(4096), screen.names)
    a, b = (correct(p, "tvn").features for p in (far, near))
    np.testing.assert_allclose(a @ a.T, b @ b.T, rtol=1e-3, atol=2e-2)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_each_correction_must_not_mind(seed: int) -> None:
    """Units, rotation and each batch's own gain and offset, where the definition removes them."""
    rng = np.random.default_rng(seed)
    batch = np.repeat([0, 1, 2], 60)
    x = rng.standard_normal((180, 5))
    names = tuple("abcde")
    metadata = pd.DataFrame(
        {
            "Metadata_Experiment": np.char.add("E", batch.astype(str)),
            "Metadata_ControlType": np.where(np.arange(180) % 60 < 30, "negcon", ""),
        }
    )

    def inner(values: np.ndarray, method: str) -> np.ndarray:
        out = correct(Profiles(metadata, values.astype(np.float32), names), method).features
        return out @ out.T

    def same(a: np.ndarray, b: np.ndarray) -> None:
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=2e-3 * np.abs(b).max())

    units = np.exp(rng.standard_normal(5))
    same(inner(x * units + units, "tvn"), inner(x, "tvn"))
    rotation = special_ortho_group.rvs(5, random_state=seed)
    same(inner(x @ rotation, "pca-standardize-experiment"), inner(x, "pca-standardize-experiment"))
    gain, offset = np.exp(0.5 * rng.standard_normal((2, 3, 5)))
    moved = x * gain[batch] + offset[batch]
    same(inner(moved, "standardize-experiment"), inner(x, "standardize-experiment"))
    same(inner(x + offset[batch], "center-experiment"), inner(x, "center-experiment"))


def test_fits_saved_under_the_old_names_still_open(make_screen: Callable[..., Profiles]) -> None:
    """A fit written when its keys were called `plan` and `layout`."""
    screen = make_screen(width=4)
    saved = Correction.load(Path(__file__).parent / "saved" / "tvn_with_plan_and_layout.npz")
    assert saved.spec == fit(screen, "tvn").spec
    assert saved.schema == ColumnSchema()
    want = correct(screen, "tvn").features
    np.testing.assert_allclose(saved.transform(screen).features, want, rtol=1e-4, atol=1e-4)


def test_table_2_has_nine_of_the_corrections() -> None:
    assert len(TABLE2) == 9
    assert TABLE2[0] == "none"
    assert TABLE2[-1] == "tvn"
    assert len({spec.label for spec in CORRECTIONS.values()} - {""}) == len(CORRECTIONS)


@pytest.mark.parametrize("method", EVERY)
def test_a_grouping_of_the_users_own_replaces_the_corrections(method: str) -> None:
    own, other = CORRECTIONS[method], steps_of(method, "Metadata_Run")[0].spec
    assert other.batch == ("Metadata_Run" if own.batch else "")
    assert dataclasses.replace(other, batch=own.batch) == own


@pytest.mark.parametrize("flag", [0x01, 0x20])
def test_a_fit_with_flags_of_encrypted_or_patched_data_is_refused(
    screen: Profiles, tmp_path: Path, flag: int
) -> None:
    path = fit(screen, "center-plate").save(tmp_path / "fit.npz")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + offset] |= flag
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not a fitted correction"):
        Correction.load(path)
