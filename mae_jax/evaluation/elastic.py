"""Cross-validated elastic nets for very many targets on the same features (A.6).

scikit-learn's ElasticNetCV computes the features' Gram matrix anew for every target, fold and
l1_ratio. Here each fold's Gram is computed once and shared by all targets; the coordinate descent
on it is scikit-learn's own (`enet_path`), so that the coefficients are its coefficients.
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

_SEGMENT = 5  # alphas walked at a time: between two looks at the test error
_RISE = 10  # over so many alphas must the test error have risen before a path is left
_MARGIN = 0.8  # features whose slope exceeds this share of the penalty may enter


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
        """One target's training values, centred (n,)."""
        return np.concatenate([y[:, number] for y in self.train_y]) - self.mean_y[number]


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
    patience: int | None = 10,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ElasticFits:
    """ElasticNetCV for every column of `y`, as scikit-learn's with the same arguments.

    Folds are consecutive rows (KFold without shuffling) and the grid of alphas is scikit-learn's.

    Args:
      x: features (N, F).
      y: targets (N, T).
      l1_ratios, folds, alphas, eps, tol, max_iter: as in ElasticNetCV.
      patience: leave a path once its least test error lies this many alphas back and the error
        has only risen over the last 10. The far end of a path, where next to nothing is
        penalised, takes most of the time and is best for no target that noise touches. None
        walks every path to its end, which is what scikit-learn does.
      workers: threads (the descent runs outside the interpreter's lock).
      progress: is told targets done and targets in all.

    Raises:
      InputError: unlike numbers of rows, fewer rows than folds, or values that are not finite.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) != len(y):
        raise InputError(f"The features have {len(x)} rows, the targets {len(y)}; align them.")
    if len(x) < 2 * folds:
        raise InputError(f"{folds} folds need at least {2 * folds} rows, there are {len(x)}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("Features or targets hold NaN or infinity; drop those rows or columns.")
    whole, parts, (mean_x, mean_y) = _split(x, y, folds)
    fits: list[tuple[np.ndarray, float, float, float]] = []

    def one(target: int) -> tuple[np.ndarray, float, float, float]:
        return _fit_one(target, whole, parts, l1_ratios, alphas, eps, tol, max_iter, patience)

    # One BLAS thread for each of ours: the vectors are short, and threads waiting for each other
    # cost more than the work.
    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        # As in scikit-learn, an alpha that has not converged still counts; its users see one
        # warning for each, which here would be thousands.
        warnings.simplefilter("ignore", category=_convergence_warning())
        for done, fit in enumerate(pool.map(one, range(y.shape[1])), 1):
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


def _path(
    fold: _Fold,
    target: int,
    alphas: np.ndarray,
    l1_ratio: float,
    start: np.ndarray | None,
    tol: float,
    max_iter: int,
) -> np.ndarray:
    """scikit-learn's descent along `alphas` from `start`: coefficients (F, A).

    Only features that may enter take part, which makes every step of the descent as short as
    there are candidates. A feature left out stays at zero in the whole problem too as long as its
    slope is below the penalty, which is checked for all afterwards; those that fail join and the
    piece is walked again. So the steps are those that scikit-learn takes on all features.
    """
    from sklearn.linear_model import enet_path

    column, cross = fold.target(target), fold.with_targets[target]
    penalties = alphas * l1_ratio * fold.rows
    w = np.zeros(len(cross)) if start is None else start
    used = np.flatnonzero(w)
    slope = np.abs(cross - w[used] @ fold.gram[used])
    # A cold start takes large steps, in which any feature may enter for a while.
    candidate = (slope > _MARGIN * penalties[-1]) | (w != 0) | (start is None)
    while True:
        chosen = np.flatnonzero(candidate)
        # With the Gram given, the features themselves are never read: only their shape is.
        shape_only = np.broadcast_to(np.zeros(1), (fold.rows, len(chosen)))
        _, found, _ = enet_path(
            shape_only,
            column,
            l1_ratio=l1_ratio,
            alphas=alphas,
            precompute=fold.gram[np.ix_(chosen, chosen)],
            Xy=np.ascontiguousarray(cross[chosen]),
            coef_init=np.ascontiguousarray(w[chosen]),
            copy_X=False,
            check_input=False,
            tol=tol,
            max_iter=max_iter,
        )
        slopes = np.abs(cross[:, None] - fold.gram[chosen].T @ found)
        broken = (slopes > penalties).any(axis=1) & ~candidate
        if not broken.any():
            coefs = np.zeros((len(cross), len(alphas)))
            coefs[chosen] = found
            return coefs
        candidate |= slopes.max(axis=1) > _MARGIN * penalties[-1]
        candidate |= broken


def _fit_one(
    target: int,
    whole: _Fold,
    parts: list[_Fold],
    l1_ratios: Sequence[float],
    count: int,
    eps: float,
    tol: float,
    max_iter: int,
    patience: int | None,
) -> tuple[np.ndarray, float, float, float]:
    best = (np.inf, 0.0, 0.0)
    largest = float(np.abs(whole.with_targets[target]).max()) / whole.rows
    for l1_ratio in l1_ratios:
        top = largest / l1_ratio
        if top <= np.finfo(float).resolution:  # nothing correlates: a constant target
            return np.zeros(len(whole.mean_x)), np.finfo(float).resolution, l1_ratios[0], 0.0
        alphas = np.geomspace(top, top * eps, num=count)
        errors = np.empty(0)
        starts: list[np.ndarray | None] = [None] * len(parts)
        for at in range(0, count, _SEGMENT):
            segment = alphas[at : at + _SEGMENT]
            found = []
            for i, fold in enumerate(parts):
                coefs = _path(fold, target, segment, l1_ratio, starts[i], tol, max_iter)
                starts[i] = coefs[:, -1]
                used = np.flatnonzero(coefs.any(axis=1))
                shift = fold.mean_y[target] - fold.mean_x[used] @ coefs[used]
                missed = fold.test_x[:, used] @ coefs[used] + shift - fold.test_y[:, target, None]
                found.append((missed**2).mean(axis=0))
            errors = np.append(errors, np.mean(found, axis=0))
            rising = bool((np.diff(errors[-_RISE:]) > 0).all())
            if patience and rising and len(errors) - 1 - errors.argmin() >= patience:
                break
        least = int(errors.argmin())
        if errors[least] < best[0]:
            best = (float(errors[least]), float(alphas[least]), l1_ratio)
    error, alpha, l1_ratio = best
    coef = _path(whole, target, np.array([alpha]), l1_ratio, None, tol, max_iter)[:, 0]
    return coef, alpha, l1_ratio, error
