"""How well embeddings predict CellProfiler's features (section 5.5, A.6, Table 7, Fig. 6 and 9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.elastic_net import L1_RATIOS, ElasticFits, fit_targets
from mae_jax.evaluation.profiles import Profiles

CATEGORIES = ("AreaShape", "Intensity", "Neighbors", "RadialDistribution", "Texture")
SKEW = 0.5


@dataclass(frozen=True)
class TargetScale:
    """Make skewed features more normal, then center and scale them (A.6), as fitted.

    A feature with skew > 0.5 is replaced by its logarithm, one with skew < −0.5 by its square.
    Both want positive values: a feature that is not positive throughout is first shifted so that
    the least value of the fit comes to one standard deviation above zero, and what a later table
    has below zero is held at a thousandth of it.

    Attributes:
      kind: per feature "", "log" or "square".
      shift: added before; 0 for a positive feature.
      floor: the least value let through.
      mean, scale: of the transformed features.
    """

    kind: tuple[str, ...]
    shift: Float[np.ndarray, " targets"]
    floor: Float[np.ndarray, " targets"]
    mean: Float[np.ndarray, " targets"]
    scale: Float[np.ndarray, " targets"]

    @staticmethod
    def fit(values: Float[np.ndarray, "rows targets"]) -> "TargetScale":
        """Learn the transforms from the training experiment's features (N, T)."""
        from scipy.stats import skew

        values = np.asarray(values, np.float64)
        spread = values.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        # Skew is defined where there is spread; scipy says NaN where there is none.
        varied = np.ptp(values, axis=0) > 1e-9 * np.maximum(np.abs(values).max(axis=0), 1e-300)
        skewness = np.zeros(values.shape[1])
        if varied.any():
            skewness[varied] = skew(values[:, varied], axis=0)
        kind = np.where(skewness > SKEW, "log", np.where(skewness < -SKEW, "square", ""))
        least = values.min(axis=0)
        shift = np.where((kind != "") & (least <= 0), spread - least, 0.0)
        raw = TargetScale(
            kind=tuple(str(k) for k in kind),
            shift=shift,
            floor=np.where(kind != "", np.minimum(1e-3 * spread, least + shift), -np.inf),
            mean=np.zeros(len(kind)),
            scale=np.ones(len(kind)),
        )
        changed = raw.transform(values)
        scale = changed.std(axis=0)
        scale = np.where(varied & (scale > 0), scale, 1.0)
        return TargetScale(raw.kind, raw.shift, raw.floor, changed.mean(axis=0), scale)

    def transform(
        self, values: Float[np.ndarray, "rows targets"]
    ) -> Float[np.ndarray, "rows targets"]:
        """Transforms features (N, T)."""
        x = np.maximum(np.asarray(values, np.float64) + self.shift, self.floor)
        kind = np.array(self.kind)
        x[:, kind == "log"] = np.log(x[:, kind == "log"])
        x[:, kind == "square"] **= 2
        return (x - self.mean) / self.scale


def category(feature: str, known: Sequence[str] = CATEGORIES) -> str:
    """The category of a CellProfiler feature: `Cells_AreaShape_Compactness` → AreaShape.

    "Other" for those outside `known` (such as Correlation or Granularity).
    """
    parts = feature.split("_")
    return next((part for part in parts[:3] if part in known), "Other")


def r_squared(
    truth: Float[np.ndarray, "rows targets"], predicted: Float[np.ndarray, "rows targets"]
) -> Float[np.ndarray, " targets"]:
    """The coefficient of determination per target (T,); NaN for a target without variance."""
    missed = ((truth - predicted) ** 2).sum(axis=0)
    total = ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - missed / np.where(total > 0, total, 1), np.nan)


@dataclass(frozen=True)
class FeaturePrediction:
    """How well each feature was predicted.

    Attributes:
      table: feature, category, transform, r2 (on the test experiment), r2_train, alpha, l1_ratio,
        nonzero (features of the embedding used).
      fits: the regressors.
    """

    table: pd.DataFrame
    fits: ElasticFits

    def by_category(self) -> pd.DataFrame:
        """Table 7: category, features, median R², median absolute deviation."""
        return self.summarize(self.table)

    @staticmethod
    def summarize(table: pd.DataFrame) -> pd.DataFrame:
        """`by_category` of any table with the columns category and r2."""
        from scipy.stats import median_abs_deviation

        rows = []
        for name, group in table.dropna(subset=["r2"]).groupby("category"):
            r2 = group["r2"].to_numpy()
            spread = float(median_abs_deviation(r2))
            rows.append((str(name), len(r2), float(np.median(r2)), spread))
        return pd.DataFrame(rows, columns=["category", "features", "median", "mad"])


def predict_features(
    train: tuple[Profiles, Profiles],
    test: tuple[Profiles, Profiles],
    *,
    on: Sequence[str] = ("Metadata_Plate", "Metadata_Well"),
    l1_ratios: Sequence[float] = L1_RATIOS,
    folds: int = 5,
    scale_per_experiment: bool = False,
    selection: str = "converged",
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeaturePrediction:
    """Predict CellProfiler features of one experiment with regressors trained on another.

    Args:
      train: (embeddings, CellProfiler features) of one experiment's wells.
      test: the same of another experiment.
      on: the metadata columns that identify a well in both tables.
      l1_ratios, folds, selection, workers, progress: see `fit_targets`.
      scale_per_experiment: center and scale each experiment's embeddings separately; by default the
        test experiment is scaled like the training experiment.

    Raises:
      InputError: tables that share no well, or different features in the two experiments.
    """
    x, y = matched(*train, on=on)
    x_test, y_test = matched(*test, on=on)
    if train[1].names != test[1].names or train[0].names != test[0].names:
        raise InputError(
            "the training and test tables have different features; use the same features for both."
        )
    scale = TargetScale.fit(y)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1
    x = (x - mean) / spread
    if scale_per_experiment:
        mean, spread = x_test.mean(axis=0), x_test.std(axis=0)
        spread[spread == 0] = 1
    x_test = (x_test - mean) / spread
    truth = scale.transform(y)
    fits = fit_targets(
        x,
        truth,
        l1_ratios=l1_ratios,
        folds=folds,
        selection=selection,
        workers=workers,
        progress=progress,
    )
    table = pd.DataFrame(
        {
            "feature": train[1].names,
            "category": [category(name) for name in train[1].names],
            "transform": scale.kind,
            "r2": r_squared(scale.transform(y_test), fits.predict(x_test)),
            "r2_train": r_squared(truth, fits.predict(x)),
            "alpha": fits.alpha,
            "l1_ratio": fits.l1_ratio,
            "nonzero": (fits.coef != 0).sum(axis=1),
        }
    )
    return FeaturePrediction(table, fits)


def matched(
    embeddings: Profiles, features: Profiles, on: Sequence[str]
) -> tuple[Float[np.ndarray, "rows width"], Float[np.ndarray, "rows targets"]]:
    """The rows of both tables whose wells are in both, in float64 and in the same order.

    Raises:
      InputError: no well in common, or a duplicated well.
    """
    keys = []
    for table_name, profiles in (("embeddings", embeddings), ("features", features)):
        key = pd.MultiIndex.from_frame(pd.DataFrame({c: profiles.column(c) for c in on}))
        if key.has_duplicates:
            which = " ".join(map(str, key[key.duplicated()][0]))
            raise InputError(
                f"well {which} is duplicated in the {table_name}; keep one row per well."
            )
        keys.append(key)
    positions = keys[1].get_indexer(keys[0])
    if not (positions >= 0).any():
        raise InputError(
            f"embeddings and features share no well in {', '.join(on)} (such as "
            f"{' '.join(map(str, keys[0][0]))} and {' '.join(map(str, keys[1][0]))})."
        )
    x: Float32[np.ndarray, ...] = embeddings.features[positions >= 0]
    return x.astype(np.float64), features.features[positions[positions >= 0]].astype(np.float64)
