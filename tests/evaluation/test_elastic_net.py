"""Many elastic nets at once against scikit-learn's ElasticNetCV, one by one."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, ElasticNetCV

from mae_jax.errors import InputError
from mae_jax.evaluation.elastic_net import L1_RATIOS, _solve, fit_targets


def problem(
    rows: int, width: int, targets: int, decay: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features far from zero, and targets from nearly noise to nearly exact."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.arange(1, width + 1) ** -decay
    x = rng.standard_normal((rows, width)) @ mixing.T + 30
    y = (x - 30) @ rng.standard_normal((width, targets)) * np.geomspace(0.02, 2, targets)
    return x, y + rng.standard_normal((rows, targets)) + 5


def scikit_learn(x: np.ndarray, y: np.ndarray, **options: float) -> ElasticNetCV:
    model = ElasticNetCV(l1_ratio=list(L1_RATIOS), cv=5, alphas=100, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: so be it there and here
        return model.fit(x, y)


@pytest.mark.parametrize(("rows", "width", "decay"), [(203, 30, 0.5), (150, 40, 0.2)])
def test_selects_as_scikit_learn_and_has_its_coefficients(
    rows: int, width: int, decay: float
) -> None:
    x, y = problem(rows, width, 2, decay)
    got = fit_targets(x, y, selection="scikit-learn")
    for target in range(y.shape[1]):
        want = scikit_learn(x, y[:, target])
        assert got.l1_ratio[target] == want.l1_ratio_
        assert got.alpha[target] == pytest.approx(want.alpha_, rel=1e-9)
        np.testing.assert_allclose(got.coef[target], want.coef_, atol=1e-4)
        np.testing.assert_allclose(got.coef[target], want.coef_, atol=1e-7)  # in fact far closer
        assert got.intercept[target] == pytest.approx(want.intercept_, abs=1e-4)
        assert got.error[target] == pytest.approx(want.mse_path_.mean(axis=-1).min(), rel=1e-6)
    np.testing.assert_allclose(got.predict(x)[:, 0], x @ got.coef[0] + got.intercept[0], atol=1e-9)


@pytest.mark.parametrize(("rows", "width"), [(153, 20), (36, 40)])
def test_converged_selection_is_scikit_learns_when_it_converges(rows: int, width: int) -> None:
    x, y = problem(rows, width, 1, 0.5)
    got = fit_targets(x, y)
    want = scikit_learn(x, y[:, 0], tol=1e-8, max_iter=10_000)
    assert got.l1_ratio[0] == want.l1_ratio_
    assert got.alpha[0] == pytest.approx(want.alpha_, rel=1e-9)
    assert got.error[0] == pytest.approx(want.mse_path_.mean(axis=-1).min(), rel=1e-6)
    # The coefficients are those of scikit-learn's descent at its own tolerance.
    net = ElasticNet(alpha=want.alpha_, l1_ratio=want.l1_ratio_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.fit(x, y[:, 0])
    np.testing.assert_allclose(got.coef[0], net.coef_, atol=1e-7)
    assert got.intercept[0] == pytest.approx(net.intercept_, abs=1e-5)


def test_solves_to_the_conditions_of_the_optimum() -> None:
    x, y = problem(90, 40, 1, 0.8)
    x, y = x - x.mean(axis=0), y[:, 0] - y.mean()
    gram, cross = x.T @ x, x.T @ y
    l1, l2 = 0.02 * np.abs(cross).max(), 1.5
    for start in (np.zeros(40), np.full(40, -0.3)):
        w = _solve(gram, cross, l1, l2, start)
        slope = cross - gram @ w - l2 * w
        np.testing.assert_allclose(slope[w != 0], l1 * np.sign(w[w != 0]), rtol=1e-8)
        assert (np.abs(slope[w == 0]) <= l1 * (1 + 1e-9)).all()
        assert 0 < (w != 0).sum() < 40


def test_a_pure_lasso_with_more_features_than_rows() -> None:
    x, y = problem(60, 90, 1, 0.5)
    x[:, 1] = x[:, 0]  # so that no Newton step exists where both are in use
    got = fit_targets(x, y, l1_ratios=(1.0,))
    assert np.isfinite(got.coef).all()
    assert (got.coef != 0).any()


def test_a_constant_target_has_no_coefficients() -> None:
    x, y = problem(60, 5, 2, 0.5)
    y[:, 1] = 3.5
    got = fit_targets(x, y)
    assert (got.coef[1] == 0).all()
    assert got.intercept[1] == pytest.approx(3.5)
    assert (got.coef[0] != 0).any()


def test_a_constant_feature_takes_no_part() -> None:
    x, y = problem(80, 6, 1, 0.5)
    x[:, 2] = 1.25
    got = fit_targets(x, y)
    assert got.coef[0, 2] == 0


def test_order_of_targets_and_number_of_threads_do_not_matter() -> None:
    x, y = problem(90, 8, 4, 0.5)
    want = fit_targets(x, y, workers=1).coef
    np.testing.assert_array_equal(fit_targets(x, y, workers=3).coef, want)
    np.testing.assert_allclose(fit_targets(x, y[:, ::-1]).coef[::-1], want, atol=1e-10)


def test_progress_counts() -> None:
    x, y = problem(40, 3, 3, 0.5)
    seen: list[tuple[int, int]] = []
    fit_targets(x, y, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bad_input() -> None:
    x, y = problem(40, 3, 1, 0.5)
    with pytest.raises(InputError, match="40 rows, the targets 39"):
        fit_targets(x, y[:-1])
    with pytest.raises(InputError, match="at least 10 rows"):
        fit_targets(x[:9], y[:9])
    x[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        fit_targets(x, y)
    x[3, 1] = 0
    with pytest.raises(InputError, match=r"lie in \(0, 1\]"):
        fit_targets(x, y, l1_ratios=(0.0, 0.5))
    with pytest.raises(InputError, match="converged or scikit-learn"):
        fit_targets(x, y, selection="best")
