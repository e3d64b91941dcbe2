"""Chains of corrections: the grammar, and each step against pycytominer, sva or its formula."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import mae_jax
from mae_jax.cli.main import main
from mae_jax.errors import InputError
from mae_jax.evaluation import CORRECTIONS, Correction, Profiles, RecallSpec, correct, fit, run
from mae_jax.evaluation.correction_spec import TRANSDUCTIVE, split_methods, steps_of
from mae_jax.evaluation.holdout import correct_with_holdout, held_out_controls

with warnings.catch_warnings():  # pycytominer sets an option that pandas 3 deprecates
    warnings.simplefilter("ignore")
    from pycytominer import feature_select, normalize

CHAINS = [
    "mad|int|select|tvn:components=8,ridge=0.2",
    "center-scale:batch=all,fit=all|pca:components=6,fit=all|tvn",
    "select:correlation=0.5|sphering:batch=plate|combat",
    "tvn:components=5,ridge=0.2,scale=yes,recolor=yes",
]


def frame(profiles: Profiles) -> pd.DataFrame:
    """The table that pycytominer takes, in float64."""
    features = pd.DataFrame(profiles.features.astype(np.float64), columns=list(profiles.names))
    return pd.concat([profiles.metadata, features], axis=1)


def by_pycytominer(profiles: Profiles, batch: str = "", **options: object) -> np.ndarray:
    """`normalize` fitted on the controls, in each batch by itself."""
    table, names = frame(profiles), list(profiles.names)
    groups = profiles.batches(batch) if batch else np.zeros(len(table))
    out = np.empty(profiles.features.shape)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        done = normalize(
            table.iloc[rows].reset_index(drop=True),
            features=names,
            meta_features=list(profiles.metadata),
            samples="Metadata_ControlType == 'negcon'",
            **options,
        )
        out[rows] = done.drop(columns=list(profiles.metadata)).to_numpy()
    return out


def up_to_signs(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    return got * np.sign((got * want).sum(axis=0))


def close(got: np.ndarray, want: np.ndarray, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max(), rtol=0)


# ---- the grammar


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("tvm|pca", "no correction 'tvm': did you mean 'tvn'"),
        ("pca|tvn:component=3", "no option 'component': did you mean 'components'"),
        ("none:components=3", "'none' has no option 'components': it has none"),
        ("pca||tvn", "has an empty step"),
        ("tvn:ridge=0", "ridge must be above 0, not 0.0"),
        ("tvn:scale=maybe", "'scale', must be yes or no, not 'maybe'"),
        ("pca:components=1.5", "must be a whole number, not '1.5'"),
        ("sphering:method=zac", "must be one of pca, zca, pca-cor, zca-cor, not 'zac'"),
        ("pca:components=3,variance=0.5", "components or variance, not both"),
        ("tvn:ridge=1,ridge=2", "the option 'ridge' twice"),
        ("tvn:ridge", "as key=value, not 'ridge'"),
        ("tvn:fit=some", "must be controls or all, not 'some'"),
        ("combat:batch=all", "needs batches"),
    ],
)
def test_what_a_chain_cannot_say(screen: Profiles, method: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit(screen, method)


def test_options_defaults_and_groupings() -> None:
    mad, select, tvn = steps_of("mad|select:na=none|tvn:ridge=0.2,batch=all", "Metadata_Run")
    assert (mad.spec.batch, tvn.spec.batch) == ("Metadata_Run", "")
    assert select.spec.fit == "all"
    assert "na=None" in repr(select.spec)
    text = "none,mad|tvn:components=150,ridge=0.2,pca"
    assert split_methods(text) == ["none", "mad|tvn:components=150,ridge=0.2", "pca"]
    for name in CORRECTIONS:
        assert steps_of(name)[0].spec == CORRECTIONS[name]


@pytest.mark.parametrize("method", CHAINS)
def test_chains_save_and_meet_new_plates(screen: Profiles, method: str, tmp_path: Path) -> None:
    fitted = fit(screen, method)
    again = Correction.load(fitted.save(tmp_path / "fit.npz"))
    np.testing.assert_array_equal(
        again.transform(screen).features, fitted.transform(screen).features
    )
    assert again.spec == fitted.spec
    np.testing.assert_array_equal(again.saw(screen.metadata), fitted.saw(screen.metadata))
    old = fit(screen.select(Experiment=["E0", "E1"]), method)
    new = screen.select(Experiment="E2")
    if "combat" in method:
        with pytest.raises(InputError, match="fit it anew on all batches"):
            old.transform(new)
        return
    assert old.transform(new).names == old.out_names
    together = old.transform(screen).features[-len(new) :]
    np.testing.assert_allclose(old.transform(new).features, together, rtol=1e-5, atol=1e-5)


def test_a_chain_is_its_steps_one_after_another(screen: Profiles) -> None:
    step_by_step = correct(correct(correct(screen, "mad"), "int", fit_on="all"), "tvn")
    chain = mae_jax.correct(screen, "mad | int | tvn")
    assert chain.names == step_by_step.names
    close(chain.features @ chain.features.T, step_by_step.features @ step_by_step.features.T)


def test_a_chain_knows_the_wells_of_all_its_steps(screen: Profiles) -> None:
    assert fit(screen, "select|tvn").saw(screen.metadata).all()
    np.testing.assert_array_equal(fit(screen, "mad|tvn").saw(screen.metadata), screen.controls())
    assert not fit(screen, "none").saw(screen.metadata).any()


# ---- published maps


def test_the_map_of_efaar_is_one_chain(screen: Profiles) -> None:
    """EFAAR_benchmarking: embed_by_pca (all wells), then tvn_on_controls."""
    control, batch = screen.controls(), screen.batches("experiment")
    x = StandardScaler().fit_transform(screen.features.astype(np.float64))
    x = PCA(6).fit_transform(x)
    x = StandardScaler().fit(x[control]).transform(x)
    x = PCA().fit(x[control]).transform(x)
    x = StandardScaler().fit(x[control]).transform(x)
    for b in np.unique(batch):
        mine = batch == b
        cov = np.cov(x[mine & control], rowvar=False, ddof=1) + 0.5 * np.eye(6)
        x[mine] = x[mine] @ scipy.linalg.fractional_matrix_power(cov, -0.5)
    method = "center-scale:batch=all,fit=all|pca:components=6,fit=all|tvn"
    got = correct(screen, method).features
    close(got @ got.T, x @ x.T)


def test_the_map_of_rxrx3_core_is_one_chain(screen: Profiles) -> None:
    """PCA, then center and scale on the controls of each experiment."""
    control, batch = screen.controls(), screen.batches("experiment")
    pca = PCA(0.9).fit(screen.features[control].astype(np.float64))
    want = pca.transform(screen.features.astype(np.float64))
    for b in np.unique(batch):
        mine = batch == b
        want[mine] = StandardScaler().fit(want[mine & control]).transform(want[mine])
    got = correct(screen, "pca:variance=0.9|center-scale:batch=experiment").features
    assert got.shape == want.shape
    close(up_to_signs(got, want), want)


def jump_lite_tvn(screen: Profiles, k: int, ridge: float, clamp: float) -> np.ndarray:
    """z on pooled controls, PCA, z on each batch's controls, C_b^(−1/2) C^(1/2)."""
    control, batch = screen.controls(), screen.batches("experiment")
    x = StandardScaler().fit(screen.features[control]).transform(screen.features.astype(np.float64))
    fewest = min((control & (batch == b)).sum() for b in np.unique(batch))
    k = k if k / fewest <= clamp else fewest - 1
    x = PCA(k).fit(x[control]).transform(x)
    for b in np.unique(batch):
        mine = batch == b
        x[mine] = StandardScaler().fit(x[mine & control]).transform(x[mine])
    everything = np.cov(x[control], rowvar=False, ddof=1) + ridge * np.eye(k)
    for b in np.unique(batch):
        mine = batch == b
        own = np.cov(x[mine & control], rowvar=False, ddof=1) + ridge * np.eye(k)
        x[mine] = x[mine] @ scipy.linalg.fractional_matrix_power(own, -0.5)
    return x @ scipy.linalg.fractional_matrix_power(everything, 0.5)


@pytest.mark.parametrize("clamp", [2.5, 0.1])
def test_the_tvn_of_jump_lite_is_one_step(
    make_screen: Callable[..., Profiles], clamp: float
) -> None:
    screen = make_screen(controls=5)
    want = jump_lite_tvn(screen, 7, 0.2, clamp)
    assert want.shape[1] == (7 if clamp == 2.5 else 9)
    method = f"tvn:components=7,ridge=0.2,scale=yes,recolor=yes,clamp={clamp}"
    fitted = fit(screen, method)
    got = fitted.transform(screen).features
    close(got @ got.T, want @ want.T)
    # A batch that comes later is recolored to the covariance of the fit.
    again = fitted.transform(screen.select(Experiment="E1")).features
    np.testing.assert_allclose(again, got[screen.batches("experiment") == "E1"], atol=1e-5)
    loaded = fit(screen.select(Experiment=["E0", "E1"]), method).fit_missing_batches(screen)
    assert np.isfinite(loaded.transform(screen).features).all()


# ---- each step


def test_pca_is_scikit_learns(screen: Profiles) -> None:
    x = screen.features.astype(np.float64)
    want = PCA(5, whiten=True).fit(x).transform(x)
    got = correct(screen, "pca:components=5,whiten=yes", fit_on="all").features
    close(up_to_signs(got, want), want)
    for share in (0.5, 0.9, 0.999):
        kept = PCA(share).fit(x).n_components_
        assert correct(screen, f"pca:variance={share}", fit_on="all").width == kept
    assert correct(screen, "pca:components=99").width == 12  # all there are


@pytest.mark.parametrize(("batch", "group"), [("plate", "plate"), ("all", "")])
def test_mad_is_pycytominers(screen: Profiles, batch: str, group: str) -> None:
    want = by_pycytominer(screen, group, method="mad_robustize")
    close(correct(screen, f"mad:batch={batch},epsilon=1e-18").features, want)
    screen.features[:, 3] = 7.0
    assert np.abs(correct(screen, f"mad:batch={batch}").features[:, 3]).max() == 0


@pytest.mark.parametrize("method", ["pca", "zca", "pca-cor", "zca-cor"])
@pytest.mark.parametrize(("batch", "group"), [("plate", "plate"), ("all", "")])
def test_sphering_is_pycytominers(screen: Profiles, method: str, batch: str, group: str) -> None:
    options = {"spherize_method": method.replace("pca", "PCA").replace("zca", "ZCA")}
    want = by_pycytominer(screen, group, method="spherize", **options)
    got = correct(screen, f"sphering:method={method},batch={batch}")
    assert (got.names == screen.names) == method.startswith("zca")
    features = got.features
    if method.startswith("pca"):
        for rows in screen.batches("plate") if batch == "plate" else ["all"]:
            mine = screen.batches("plate") == rows if batch == "plate" else slice(None)
            features[mine] = up_to_signs(features[mine], want[mine])
    close(features, want)


def test_sphering_with_fewer_wells_than_features(make_screen: Callable[..., Profiles]) -> None:
    screen = make_screen(width=30, experiments=1, plates=1, controls=20)
    want = by_pycytominer(screen, method="spherize", spherize_epsilon=0.01)
    close(correct(screen, "sphering:epsilon=0.01").features, want)
    few = make_screen(width=30, experiments=1, plates=2, controls=9)
    out = correct(few, "center-scale|sphering").features  # rank 16 of 18 controls
    assert np.isfinite(out).all()
    assert np.abs(out).max() < 1e3
    twins = make_screen(width=8)
    twins.features[:, 1] = twins.features[:, 0]
    with pytest.raises(InputError, match="only 7 independent directions; put select or pca"):
        correct(twins, "sphering")
    twins.features[:, 1] = 3.0
    with pytest.raises(InputError, match="is constant; put select before it"):
        correct(twins, "sphering")


def test_inverse_normal_is_pycytominers(screen: Profiles) -> None:
    want = by_pycytominer(screen, method="inverse_normal")
    close(correct(screen, "int:fit=controls").features, want)
    far = Profiles(screen.metadata, screen.features * 100, screen.names)
    out = fit(screen, "int").transform(far).features
    assert 5 < np.abs(out).max() < 5.3


def test_feature_selection_is_pycytominers(make_screen: Callable[..., Profiles]) -> None:
    screen = make_screen(width=24)
    x, rng = screen.features, np.random.default_rng(0)
    x[:, 0] = 1e-4 * x[:, 0] / x[:, 0].std()  # variance below 1e-6
    x[:, 1] = np.where(np.arange(len(x)) < 5, 1.0, 0.0)  # 5 of 360 differ
    x[:, 2] = rng.integers(0, 3, len(x))  # three distinct values
    x[7, 3] = 900.0
    x[: len(x) // 4, 4] = np.nan
    for a, b, noise in [(5, 6, 0.1), (7, 8, 0.3), (8, 9, 0.3), (10, 11, 0.05)]:
        x[:, b] = x[:, a] + noise * x[:, a].std() * rng.standard_normal(len(x))
    x[:, 12] = -x[:, 13]
    chosen = feature_select(
        frame(screen),
        features=list(screen.names),
        operation=[
            "drop_na_columns",
            "variance_threshold",
            "frequency_threshold",
            "drop_outliers",
            "correlation_threshold",
        ],
    )
    want = [n for n in chosen if n in screen.names]
    got = correct(screen, "select")
    assert list(got.names) == want
    gone = set(screen.names) - set(want)
    assert {screen.names[i] for i in range(5)} <= gone
    assert len(gone) >= 8
    assert {screen.names[12], screen.names[13]} <= set(want)  # r = −1: the rule is signed
    relaxed = "select:na=0.5,variance=none,frequency=none,unique=none,outliers=none"
    with pytest.raises(InputError, match=f"NaN or infinity in feature {screen.names[4]}"):
        correct(screen, relaxed)
    kept = correct(screen, relaxed.replace("na=0.5", "na=0.1") + ",correlation=none")
    assert kept.width == 23
    with pytest.raises(InputError, match="leaves none of the 24 features"):
        correct(screen, "select:outliers=0")


def combat_by_sva(x: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """ComBat well by well and feature by feature, as R's sva computes it."""
    names = np.unique(batch)
    sizes = {b: (batch == b).sum() for b in names}
    grand = sum(x[batch == b].mean(0) * sizes[b] for b in names) / len(x)
    residuals = x - np.stack([x[batch == b].mean(0) for b in batch])
    pooled = (residuals**2).mean(0)
    z, out = (x - grand) / np.sqrt(pooled), np.empty_like(x)
    for b in names:
        mine = z[batch == b]
        n, gamma, delta = len(mine), mine.mean(0), mine.var(0, ddof=1)
        prior, spread = gamma.mean(), gamma.var(ddof=1)
        m, s = delta.mean(), delta.var(ddof=1)
        alpha, beta = (2 * s + m**2) / s, (m * s + m**3) / s
        for f in range(x.shape[1]):
            g, d = gamma[f], delta[f]
            for _ in range(500):
                g = (spread * n * gamma[f] + d * prior) / (spread * n + d)
                d = (0.5 * ((mine[:, f] - g) ** 2).sum() + beta) / (n / 2 + alpha - 1)
            out[batch == b, f] = np.sqrt(pooled[f] / d) * (mine[:, f] - g) + grand[f]
    return out


def test_combat_is_svas(screen: Profiles) -> None:
    batch = screen.batches("plate").astype(str)
    want = combat_by_sva(screen.features.astype(np.float64), batch)
    close(correct(screen, "combat", fit_on="all").features, want)
    # Recorded from another implementation (neuroCombat 0.2.12) on the same screen.
    recorded = np.load(Path(__file__).parent / "saved" / "combat_neurocombat.npy")
    close(correct(screen, "combat", fit_on="all").features[::30], recorded, 1e-4)
    screen.features[:, 2] = 4.0
    assert (correct(screen, "combat").features[:, 2] == 4.0).all()


def test_fits_on_controls_leave_other_wells_out(screen: Profiles) -> None:
    for method in ("mad", "sphering", "combat", "int:fit=controls", "select:fit=controls"):
        before = fit(screen, method).steps[0].arrays()
        moved = Profiles(screen.metadata, screen.features.copy(), screen.names)
        moved.features[~screen.controls()] *= 50
        after = fit(moved, method).steps[0].arrays()
        for key, array in before.items():
            np.testing.assert_array_equal(after[key], array)


# ---- Harmony


def test_harmony_runs_and_cannot_be_saved(
    screen: Profiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmonypy = pytest.importorskip("harmonypy")
    labels = pd.DataFrame({"batch": screen.batches("plate").astype(str)})
    want = harmonypy.run_harmony(
        screen.features.astype(np.float64), labels, "batch", verbose=False, ncores=1
    ).Z_corr
    close(correct(screen, "harmony").features, np.asarray(want))
    wells, fitted = correct_with_holdout(screen, "pca:components=4|harmony|center-scale")
    assert fitted is None
    assert len(wells) == 300
    held_out = held_out_controls(screen)
    rows = held_out | ~screen.controls()
    chain = correct(screen, "pca:components=4|harmony|center-scale", fit_rows=~held_out)
    np.testing.assert_array_equal(wells.features, chain.features[rows])
    with pytest.raises(InputError, match="moves each well by all the others"):
        fit(screen, "pca|harmony")
    screen.write(tmp_path / "a.parquet")
    command = ["correct", "--embeddings", str(tmp_path / "a.parquet"), "--method", "harmony"]
    command += ["--out", str(tmp_path / "out.parquet")]
    assert main([*command, "--save-fit", str(tmp_path / "fit.npz")]) == 2
    assert "there is no fit to save" in capsys.readouterr().err
    assert main([*command, "--stream"]) == 2
    assert "moves each well by all the others" in capsys.readouterr().err
    assert main(command) == 0
    close(Profiles.read(tmp_path / "out.parquet").features, np.asarray(want))


def test_harmony_is_an_extra(screen: Profiles, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TRANSDUCTIVE == ("harmony",)
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(InputError, match=r"pip install 'mae_jax\[harmony\]'"):
        correct(screen, "harmony")
    monkeypatch.undo()
    pytest.importorskip("harmonypy")
    with pytest.raises(InputError, match="all wells have the same"):
        correct(screen.select(Experiment="E0"), "harmony:batch=experiment")


# ---- the command line


def test_chains_on_the_command_line(
    screen: Profiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.write(tmp_path / "a.parquet")
    method = "mad|select:correlation=0.8|tvn:components=6,ridge=0.2"
    command = ["correct", "--embeddings", str(tmp_path / "a.parquet"), "--method", method]
    fitted = ["--save-fit", str(tmp_path / "fit.npz")]
    assert main([*command, *fitted, "--out", str(tmp_path / "b.parquet")]) == 0
    want = correct(screen, method)
    np.testing.assert_array_equal(Profiles.read(tmp_path / "b.parquet").features, want.features)
    again = ["correct", "--embeddings", str(tmp_path / "a.parquet"), "--fitted"]
    again += [str(tmp_path / "fit.npz"), "--out", str(tmp_path / "c.parquet"), "--stream"]
    assert main(again) == 0
    close(Profiles.read(tmp_path / "c.parquet").features, want.features)
    pairs = pd.DataFrame([(f"G{i:03d}", f"G{i + 1:03d}") for i in range(0, 40, 2)])
    pairs.to_csv(tmp_path / "pairs.csv", index=False, header=["entity1", "entity2"])
    score = ["evaluate", "recall", "--embeddings", str(tmp_path / "a.parquet"), "--corrections"]
    score += [f"none,{method}", "--relationships", str(tmp_path / "pairs.csv")]
    assert main([*score, "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "recall.csv")
    assert table["correction"].tolist() == ["none", method]
    assert table["label"].tolist() == ["No transformation", method]
    spec = RecallSpec(
        embeddings={"a": screen}, relationships=[tmp_path / "pairs.csv"], corrections=[method]
    )
    assert run(spec).tables["recall"]["recall"][0] == pytest.approx(table["recall"][1], rel=1e-5)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["correct", "--help"])
    printed = capsys.readouterr().out
    assert "tvn: components=0, variance=0.0, ridge=0.5" in printed
