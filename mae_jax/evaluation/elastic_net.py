"""Cross-validated elastic nets for very many targets on the same features (A.6).

scikit-learn's ElasticNetCV computes the features' Gram matrix anew for every target, fold and
l1_ratio, and then descends coordinate by coordinate, up to 1,000 rounds at each of 100 alphas.
Here each fold's Gram matrix is computed once and shared by all targets. Cross-validation solves
each problem on it to its end by Newton steps on the set of features in use (a few Cholesky
factors), and looks at every fourth alpha first, then at all around the least errors. The chosen
net is fitted by scikit-learn's own descent, so that its coefficients are scikit-learn's.
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from mae_jax.errors import InputError

L1_RATIOS = (0.1, 0.6, 0.9, 0.95, 0.99)
SELECTIONS = ("converged", "scikit-learn")

_STRIDE = 4  # one alpha in so many is solved first
_NEAR = 0.01  # minima of that coarse curve are looked at if this close to the least of all
_STEPS = 50  # Newton steps; they seldom are more than five


@dataclass(frozen=True)
class ElasticFits:
    """Elastic nets of T targets on F features.

    Attributes:
      coef: (T, F).
      intercept: (T,).
      alpha, l1_ratio: (T,) as chosen by cross-validation.
      error: (T,) the least mean squared error, averaged over the folds.
    """

    coef: Float[np.ndarray, "targets features"]
    intercept: Float[np.ndarray, " targets"]
    alpha: Float[np.ndarray, " targets"]
    l1_ratio: Float[np.ndarray, " targets"]
    error: Float[np.ndarray, " targets"]

    def predict(self, x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows targets"]:
        """Predictions (N, T)."""
        return x @ self.coef.T + self.intercept


@dataclass(frozen=True)
class _Fold:
    """A training set's second moments about its means, and views of its rows and test rows."""

    rows: int
    gram: np.ndarray  # (F, F)
    with_targets: np.ndarray  # (T, F)
    mean_x: np.ndarray
    mean_y: np.ndarray
    train_y: tuple[np.ndarray, ...]  # the rows before and after the test rows
    test_x: np.ndarray
    test_y: np.ndarray

    def target(self, number: int) -> np.ndarray:
        """One target's training values, centered (n,)."""
        return np.concatenate([y[:, number] for y in self.train_y]) - self.mean_y[number]

    def errors(self, target: int, coefs: np.ndarray) -> np.ndarray:
        """The mean squared error on the test rows (A,) of coefficients (F, A)."""
        shift = self.mean_y[target] - self.mean_x @ coefs
        missed = self.test_x @ coefs + shift - self.test_y[:, target, None]
        return (missed**2).mean(axis=0)


@dataclass(frozen=True)
class _Search:
    """What cross-validation goes through."""

    l1_ratios: Sequence[float]
    alphas: int
    eps: float
    tol: float
    max_iter: int


def fit_targets(
    x: Float[np.ndarray, "rows features"],
    y: Float[np.ndarray, "target_rows targets"],
    *,
    l1_ratios: Sequence[float] = L1_RATIOS,
    folds: int = 5,
    alphas: int = 100,
    eps: float = 1e-3,
    tol: float = 1e-4,
    max_iter: int = 1000,
    selection: str = "converged",
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ElasticFits:
    """ElasticNetCV for every column of `y`.

    Folds are consecutive rows (KFold without shuffling), the grid of alphas is scikit-learn's,
    and the net of the chosen alpha and l1_ratio is fitted by scikit-learn's descent, with the
    same `tol` and `max_iter`: given the same choice, the coefficients are the same.

    The choice is that of the least test error of the solutions. scikit-learn's descent stops
    short of them, most of all at small alphas, which moves the test error by some 2e-5 of itself;
    neighbors on the grid often differ by less. So its own choice is now and then the next alpha.
    `selection="scikit-learn"` walks all its paths as it does, and chooses as it does, but takes
    over ten times as long.

    Args:
      x: features (N, F).
      y: targets (N, T).
      l1_ratios, folds, alphas, eps, tol, max_iter: as in ElasticNetCV.
      selection: "converged" or "scikit-learn", see above.
      workers: threads (most of the work runs outside the interpreter's lock).
      progress: called with (done, total), the numbers of targets.

    Raises:
      InputError: unlike numbers of rows, fewer rows than folds, values that are not finite, an
        l1_ratio outside (0, 1], or an unknown selection.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) != len(y):
        raise InputError(f"the features have {len(x)} rows, the targets {len(y)}; align them.")
    if len(x) < 2 * folds:
        raise InputError(f"{folds} folds need at least {2 * folds} rows, there are {len(x)}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("features or targets hold NaN or infinity; drop those rows or columns.")
    if not all(0 < r <= 1 for r in l1_ratios):
        raise InputError(f"l1_ratios lie in (0, 1], not {', '.join(map(str, l1_ratios))}.")
    if selection not in SELECTIONS:
        raise InputError(f"choose the selection {' or '.join(SELECTIONS)}, not '{selection}'.")
    whole, parts, (mean_x, mean_y) = _split(x, y, folds)
    search = _Search(l1_ratios, alphas, eps, tol, max_iter)
    select = _select if selection == "converged" else _select_walking

    def fit_one(target: int) -> tuple[np.ndarray, float, float, float]:
        largest = float(np.abs(whole.with_targets[target]).max()) / whole.rows
        if largest / max(l1_ratios) <= np.finfo(float).resolution:  # a constant target
            return np.zeros(x.shape[1]), np.finfo(float).resolution, l1_ratios[0], 0.0
        grid = np.stack([np.geomspace(1, eps, num=alphas) * (largest / r) for r in l1_ratios])
        errors = select(parts, target, grid, search)
        # The first least, in scikit-learn's order.
        ratio, index = (int(i) for i in np.unravel_index(errors.argmin(), errors.shape))
        alpha, l1_ratio = grid[ratio, index], l1_ratios[ratio]
        coef = _descend(whole, target, np.array([alpha]), l1_ratio, search)[:, 0]
        return coef, float(alpha), float(l1_ratio), float(errors[ratio, index])

    fits = []
    # One BLAS thread for each of ours: threads waiting for each other cost more than the work.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        # As in scikit-learn, an alpha that has not converged still counts; its users see one
        # warning for each, which here would be thousands.
        warnings.simplefilter("ignore", category=_convergence_warning())
        for done, fit in enumerate(pool.map(fit_one, range(y.shape[1])), 1):
            fits.append(fit)
            progress(done, y.shape[1])
    coef = np.stack([f[0] for f in fits])
    return ElasticFits(
        coef=coef,
        intercept=mean_y - coef @ mean_x,
        alpha=np.array([f[1] for f in fits]),
        l1_ratio=np.array([f[2] for f in fits]),
        error=np.array([f[3] for f in fits]),
    )


def _convergence_warning() -> type[Warning]:
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning


def _split(x: np.ndarray, y: np.ndarray, folds: int) -> tuple[_Fold, list[_Fold], tuple]:
    """The moments of all rows, of all rows but each fold's, and the means taken off before."""
    # About the overall means first, so that the differences of moments below lose no digits.
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - mean_x, y - mean_y
    n = len(x)
    bounds = np.cumsum([0] + [n // folds + (i < n % folds) for i in range(folds)])
    slices = [slice(int(a), int(b)) for a, b in itertools.pairwise(bounds)]
    grams = [np.ascontiguousarray(x[s].T) @ x[s] for s in slices]
    crosses = [np.ascontiguousarray(y[s].T) @ x[s] for s in slices]
    gram, cross = sum(grams), sum(crosses)
    nothing = np.zeros_like
    whole = _Fold(n, gram, cross, nothing(mean_x), nothing(mean_y), (y,), x[:0], y[:0])
    parts = []
    for s, own_gram, own_cross in zip(slices, grams, crosses, strict=True):
        rows = n - (s.stop - s.start)
        sum_x, sum_y = -x[s].sum(axis=0), -y[s].sum(axis=0)  # those of the rest: all sum to zero
        parts.append(
            _Fold(
                rows=rows,
                gram=np.ascontiguousarray(gram - own_gram - np.outer(sum_x, sum_x) / rows),
                with_targets=cross - own_cross - np.outer(sum_y, sum_x) / rows,
                mean_x=sum_x / rows,
                mean_y=sum_y / rows,
                train_y=(y[: s.start], y[s.stop :]),
                test_x=x[s],
                test_y=y[s],
            )
        )
    return whole, parts, (mean_x, mean_y)


def _descend(
    fold: _Fold,
    target: int,
    alphas: np.ndarray,
    l1_ratio: float,
    search: _Search,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """scikit-learn's coordinate descent along `alphas`, from `start` or zero: (F, A)."""
    from sklearn.linear_model import enet_path

    _, coefs, _ = enet_path(
        # With the Gram given, the features themselves are never read: only their shape is.
        np.broadcast_to(np.zeros(1), (fold.rows, len(fold.gram))),
        fold.target(target),
        l1_ratio=l1_ratio,
        alphas=alphas,
        precompute=fold.gram,
        Xy=fold.with_targets[target],
        coef_init=start,
        copy_X=False,
        check_input=False,
        tol=search.tol,
        max_iter=search.max_iter,
    )
    return coefs


def _select_walking(
    parts: list[_Fold], target: int, grid: np.ndarray, search: _Search
) -> np.ndarray:
    """Test errors (ratios, alphas), averaged over the folds, of scikit-learn's paths."""
    return np.stack(
        [
            np.mean(
                [f.errors(target, _descend(f, target, alphas, ratio, search)) for f in parts], 0
            )
            for ratio, alphas in zip(search.l1_ratios, grid, strict=True)
        ]
    )


def _select(parts: list[_Fold], target: int, grid: np.ndarray, search: _Search) -> np.ndarray:
    """Test errors (ratios, alphas), averaged over the folds; infinite where not looked at."""
    errors = np.full(grid.shape, np.inf)
    coarse = sorted({*range(0, search.alphas, _STRIDE), search.alphas - 1})
    results: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in parts]

    def solve_points(points: list[tuple[int, int]]) -> None:
        total = np.zeros(len(points))
        for fold, known in zip(parts, results, strict=True):
            for ratio, index in points:
                # From the nearest solved problem of larger penalty, or that of the last l1_ratio.
                start = known.get((ratio - 1, index))
                if start is None:
                    before = max((i for r, i in known if r == ratio and i < index), default=-1)
                    start = known.get((ratio, before), np.zeros(len(fold.gram)))
                penalty = grid[ratio, index] * fold.rows
                share = search.l1_ratios[ratio]
                cross = fold.with_targets[target]
                w = _solve(fold.gram, cross, penalty * share, penalty * (1 - share), start)
                if w is None:
                    alpha = grid[ratio, index, None]
                    w = _descend(fold, target, alpha, share, search, start)[:, 0]
                known[ratio, index] = w
            coefs = np.stack([known[p] for p in points], axis=1)
            total += fold.errors(target, coefs)
        errors[tuple(zip(*points, strict=True))] = total / len(parts)

    solve_points([(ratio, index) for index in coarse for ratio in range(len(grid))])
    between = set()
    for ratio, curve in enumerate(errors[:, coarse]):
        padded = np.pad(curve, 1, constant_values=np.inf)
        low = (curve <= padded[:-2]) & (curve <= padded[2:])
        for at in np.flatnonzero(low & (curve <= errors.min() * (1 + _NEAR))).tolist():
            span = range(coarse[max(at - 1, 0)], coarse[min(at + 1, len(coarse) - 1)])
            between |= {(ratio, i) for i in span if not np.isfinite(errors[ratio, i])}
    if between:
        solve_points(sorted(between, key=lambda point: (point[1], point[0])))
    return errors


def _solve(
    gram: np.ndarray, cross: np.ndarray, l1: float, l2: float, start: np.ndarray
) -> np.ndarray | None:
    """The least of ½w'Gw − c'w + l1·|w|₁ + ½l2·|w|², from `start` (F,); None if not found.

    On a set of features with given signs the least is one linear system. Features whose slope
    exceeds the penalty join the set, those that crossed zero leave it, until neither happens:
    then the conditions of the optimum hold. (This is Newton's method on those conditions.)
    """
    from scipy.linalg.lapack import dposv

    signs, w = np.sign(start), start
    slope = cross - gram @ w
    for step in range(_STEPS):
        crossed = signs * w < 0
        enter = (signs == 0) & (np.abs(slope) > l1 * (1 + 1e-10))
        if step and not (crossed.any() or enter.any()):
            return w
        signs[crossed], signs[enter] = 0, np.sign(slope[enter])
        used = np.flatnonzero(signs)
        system = gram.take(used, axis=0).take(used, axis=1)
        system[np.diag_indices(len(used))] += l2
        w = np.zeros_like(cross)
        if len(used):
            _, w[used], failed = dposv(system.T, cross[used] - l1 * signs[used], overwrite_a=True)
            if failed:  # not positive definite: more features than rows, and no ridge
                return None
        slope = cross - gram @ w
    return None
