"""Steps that treat each feature by itself: inverse normal and feature selection."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.correction_spec import InverseNormalSpec, SelectSpec, Step
from mae_jax.evaluation.moments import Moments
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.sources import (
    Source,
    reference_columns,
    reference_mask,
    reference_rows,
)

# Quantiles are computed of this many wells at most, drawn at random (scikit-learn's number).
QUANTILE_WELLS = 10_000


@dataclass(frozen=True)
class InverseNormalStep:
    """A fitted inverse normal transform, see `InverseNormalSpec`.

    Attributes:
      step, fit_on, schema, names: as of `AffineStep`.
      quantiles: (Q, F), of the wells of the fit.
    """

    step: Step
    fit_on: str
    schema: ColumnSchema
    names: tuple[str, ...]
    quantiles: Float[np.ndarray, "quantiles features"] = field(
        default_factory=lambda: np.empty((0, 0))
    )

    learns = True

    @property
    def out_names(self) -> tuple[str, ...]:
        """The features it gives: those it takes."""
        return self.names

    def transform(self, profiles: Profiles) -> Profiles:
        """Correct profiles."""
        transformer = self._transformer()
        blocks = [
            transformer.transform(block.features.astype(np.float64)).astype(np.float32)
            for block in profiles.blocks()
        ]
        features = np.concatenate(blocks) if blocks else profiles.features
        return replace(profiles, features=features)

    def _transformer(self) -> Any:
        from sklearn.preprocessing import QuantileTransformer

        count, width = self.quantiles.shape
        result = QuantileTransformer(n_quantiles=count, output_distribution="normal")
        result.quantiles_, result.n_quantiles_ = self.quantiles, count
        result.references_ = np.linspace(0, 1, count, endpoint=True)
        result.n_features_in_ = width
        return result

    def missing(self, metadata: pd.DataFrame) -> list[str]:
        """None: it has no batches."""
        return []

    def with_batches(self, source: Source) -> "InverseNormalStep":
        """Itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Nothing besides arrays."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name, for a file."""
        return {"quantiles": self.quantiles}

    def restored(
        self, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "InverseNormalStep":
        """The step with what `settings` and `arrays` gave.

        Raises:
          ValueError: arrays of other shapes than the names say.
        """
        quantiles = arrays["quantiles"]
        if quantiles.ndim != 2 or quantiles.shape[1] != len(self.names) or len(quantiles) < 2:
            raise ValueError("arrays of other shapes than the settings say")
        return replace(self, quantiles=quantiles.astype(np.float64))


def fit_inverse_normal(
    source: Source, step: Step, fit_on: str, schema: ColumnSchema
) -> InverseNormalStep:
    """Fit the quantiles of each feature on the reference wells of a source.

    Raises:
      InputError: no or a single reference well.
    """
    from sklearn.preprocessing import QuantileTransformer

    assert isinstance(step.spec, InverseNormalSpec)
    rows = np.flatnonzero(reference_mask(source, fit_on, schema))
    if len(rows) < 2:
        raise InputError(f"{step.label} needs at least 2 wells to fit on, there are {len(rows)}.")
    if len(rows) > QUANTILE_WELLS:
        rows = np.sort(np.random.default_rng(0).choice(rows, QUANTILE_WELLS, replace=False))
    transformer = QuantileTransformer(
        n_quantiles=min(step.spec.quantiles, len(rows)),
        output_distribution="normal",
        subsample=None,
    )
    transformer.fit(source.take(rows).features.astype(np.float64))
    return InverseNormalStep(step, fit_on, schema, source.names, transformer.quantiles_)


@dataclass(frozen=True)
class SelectStep:
    """A fitted feature selection.

    Attributes:
      step, fit_on, schema, names: as of `AffineStep`.
      keep: (F,), which features stay.
    """

    step: Step
    fit_on: str
    schema: ColumnSchema
    names: tuple[str, ...]
    keep: Bool[np.ndarray, " features"] = field(default_factory=lambda: np.empty(0, bool))

    learns = True

    @property
    def out_names(self) -> tuple[str, ...]:
        """The features that stay."""
        return tuple(np.array(self.names, dtype=object)[self.keep])

    def transform(self, profiles: Profiles) -> Profiles:
        """The profiles with the features that stay, none of whose values may be missing."""
        features: Float32[np.ndarray, "rows features"]
        features = np.ascontiguousarray(profiles.features[:, self.keep])
        return replace(profiles, features=features, names=self.out_names).finite(schema=self.schema)

    def missing(self, metadata: pd.DataFrame) -> list[str]:
        """None: it has no batches."""
        return []

    def with_batches(self, source: Source) -> "SelectStep":
        """Itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Nothing besides arrays."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name, for a file."""
        return {"keep": self.keep}

    def restored(
        self, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "SelectStep":
        """The step with what `settings` and `arrays` gave.

        Raises:
          ValueError: arrays of other shapes than the names say.
        """
        keep = arrays["keep"]
        if keep.shape != (len(self.names),) or keep.dtype != bool or not keep.any():
            raise ValueError("arrays of other shapes than the settings say")
        return replace(self, keep=keep)


def fit_select(source: Source, step: Step, fit_on: str, schema: ColumnSchema) -> SelectStep:
    """Choose features by the reference wells of a source.

    Raises:
      InputError: no reference wells, or no feature stays.
    """
    spec = step.spec
    assert isinstance(spec, SelectSpec)
    keep = np.concatenate(
        [_kept_alone(spec, x) for _, x in reference_columns(source, fit_on, schema)]
    )
    if spec.correlation is not None and keep.any():
        correlation = _correlation(source, fit_on, schema, keep)
        keep[np.flatnonzero(keep)[redundant(correlation, spec.correlation)]] = False
    if not keep.any():
        raise InputError(f"{step.label} leaves none of the {len(keep)} features; relax its rules.")
    return SelectStep(step, fit_on, schema, source.names, keep)


def _kept_alone(
    spec: SelectSpec, x: Float32[np.ndarray, "rows features"]
) -> Bool[np.ndarray, " features"]:
    """The rules that look at one feature at a time."""
    missing = np.isnan(x)
    keep = missing.mean(axis=0) <= (1.0 if spec.na is None else spec.na)
    for i in np.flatnonzero(keep):
        values = x[~missing[:, i], i].astype(np.float64)
        if spec.variance is not None:
            # sklearn's VarianceThreshold: with a threshold of 0, by the range, which is exact.
            spread = values.var() if spec.variance else np.ptp(values)
            keep[i] &= bool(spread > spec.variance)
        counts = np.sort(np.unique(values, return_counts=True)[1])[::-1]
        if spec.frequency is not None:
            keep[i] &= (counts[1] / counts[0] if len(counts) > 1 else 0.0) >= spec.frequency
        if spec.unique is not None:
            keep[i] &= len(counts) / len(x) >= spec.unique
        if spec.outliers is not None:
            keep[i] &= max(abs(values.max()), abs(values.min())) <= spec.outliers
    return keep


def _correlation(
    source: Source, fit_on: str, schema: ColumnSchema, keep: Bool[np.ndarray, " features"]
) -> Float[np.ndarray, "kept kept"]:
    """Pearson's correlation of the kept features; of pairs of values where some are missing."""
    moments = Moments.empty(int(keep.sum()), full=True)
    for block in reference_rows(source, fit_on, schema):
        moments.add(block.features[:, keep])
    if np.isfinite(moments.second).all():
        sigma = np.sqrt(np.diagonal(moments.second))
        with np.errstate(invalid="ignore", divide="ignore"):
            return moments.second / np.outer(sigma, sigma)
    parts = [x for _, x in reference_columns(source, fit_on, schema)]
    return pd.DataFrame(np.concatenate(parts, axis=1)[:, keep].astype(np.float64)).corr().to_numpy()


def redundant(
    correlation: Float[np.ndarray, "features features"], threshold: float
) -> Bool[np.ndarray, " features"]:
    """Which features pycytominer's `correlation_threshold` drops.

    Of every pair with r > threshold (signed) the feature with the larger Σ|r| goes, even if its
    partner goes too.
    """
    sums = np.nansum(np.abs(correlation), axis=0)
    place = np.empty(len(sums), np.int64)
    place[np.argsort(sums, kind="stable")] = np.arange(len(sums))
    a, b = np.nonzero(np.tril(np.nan_to_num(correlation, nan=-1.0) > threshold, k=-1))
    drop = np.zeros(len(sums), bool)
    drop[np.where(place[a] > place[b], a, b)] = True
    return drop
