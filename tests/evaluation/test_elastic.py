"""Many elastic nets at once against scikit-learn's ElasticNetCV, one by one."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import ElasticNetCV

from mae_jax.errors import InputError
from mae_jax.evaluation.elastic import L1_RATIOS, fit_targets


def problem(
    rows: int, width: int, targets: int, decay: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features far from zero, and targets from nearly noise to nearly exact."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((width, width)) * np.arange(1, width + 1) ** -decay
    x = rng.standard_normal((rows, width)) @ mixing.T + 30
    y = (x - 30) @ rng.standard_normal((width, targets)) * np.geomspace(0.02, 2, targets)
    return x, y + rng.standard_normal((rows, targets)) + 5


@pytest.mark.parametrize("patience", [None, 10])
@pytest.mark.parametrize(("rows", "width", "decay"), [(203, 30, 0.5), (401, 60, 0.2)])
def test_is_scikit_learns(rows: int, width: int, decay: float, patience: int | None) -> None:
    x, y = problem(rows, width, 5, decay)
    y = y[:, :: 2 if patience else 4]
    got = fit_targets(x, y, patience=patience)
    for target in range(y.shape[1]):
        want = ElasticNetCV(l1_ratio=list(L1_RATIOS), cv=5, alphas=100)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # not converged: so be it there and here
            want.fit(x, y[:, target])
        assert got.l1_ratio[target] == want.l1_ratio_
        assert got.alpha[target] == pytest.approx(want.alpha_, rel=1e-9)
        np.testing.assert_allclose(got.coef[target], want.coef_, atol=1e-4)
        np.testing.assert_allclose(got.coef[target], want.coef_, atol=1e-7)  # in fact far closer
        assert got.intercept[target] == pytest.approx(want.intercept_, abs=1e-4)
        assert got.error[target] == pytest.approx(want.mse_path_.mean(axis=-1).min(), rel=1e-3)
    np.testing.assert_allclose(got.predict(x)[:, 0], x @ got.coef[0] + got.intercept[0], atol=1e-9)


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
