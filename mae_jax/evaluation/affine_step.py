"""Steps that are an affine map: one part for all wells, then one for each batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.combat import combat_batches
from mae_jax.evaluation.correction_spec import AffineSpec, CombatSpec, MADSpec, SpheringSpec, Step
from mae_jax.evaluation.moments import (
    Moments,
    inverse_root_of_rows,
    principal_axes,
    root,
    sphering_matrix,
)
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels
from mae_jax.evaluation.sources import (
    Source,
    grouped,
    reference_columns,
    reference_mask,
    reference_rows,
)


@dataclass(frozen=True)
class BatchTransform:
    """A batch's part of a step: x ↦ ((x − shift)/scale)·matrix + offset.

    Attributes:
      shift: (K,).
      scale: σ (K,), or None.
      matrix: (K, K), or None.
      offset: (K,), or None.
    """

    shift: Float32[np.ndarray, " axes"]
    scale: Float32[np.ndarray, " axes"] | None = None
    matrix: Float32[np.ndarray, "axes axes"] | None = None
    offset: Float32[np.ndarray, " axes"] | None = None

    def transform(self, x: Float32[np.ndarray, "rows axes"]) -> Float32[np.ndarray, "rows axes"]:
        """Map rows (n, K)."""
        x = x - self.shift
        if self.scale is not None:
            x /= self.scale
        if self.matrix is not None:
            x = x @ self.matrix
        return x if self.offset is None else x + self.offset


@dataclass(frozen=True)
class AffineStep:
    """A fitted affine step.

    Attributes:
      step: its name and specification.
      fit_on: "controls" or "all".
      schema: the metadata columns it was fitted with.
      names: the F features it takes.
      shift, scale: (F,), x ↦ (x − shift)/scale for all wells; shift None = left alone.
      rotation: (F, K), or None.
      target: (K, K), what recoloring multiplies by, or None.
      batches: each batch's own part.
    """

    step: Step
    fit_on: str
    schema: ColumnSchema
    names: tuple[str, ...]
    shift: Float[np.ndarray, " features"] | None = None
    scale: Float[np.ndarray, " features"] | None = None
    rotation: Float32[np.ndarray, "features axes"] | None = None
    target: Float[np.ndarray, "axes axes"] | None = None
    batches: Mapping[str, BatchTransform] = field(default_factory=dict)

    @property
    def learns(self) -> bool:
        """Whether anything in it comes from wells."""
        return self.shift is not None or bool(self.batches)

    @property
    def out_names(self) -> tuple[str, ...]:
        """The names of the K features it gives."""
        spec = self.step.spec
        if isinstance(spec, SpheringSpec) and spec.method.startswith("pca"):
            return tuple(f"Image_SPHERING_{i:04d}" for i in range(len(self.names)))
        if self.rotation is None or not isinstance(spec, AffineSpec):
            return self.names
        return tuple(f"Image_{spec.axes.upper()}_{i:04d}" for i in range(self.rotation.shape[1]))

    def batch_labels(self, metadata: pd.DataFrame) -> np.ndarray:
        """Each row's batch by the step's grouping, (N,) strings; "" if it has none.

        Raises:
          InputError: the metadata lack the column to group by.
        """
        if not self.step.spec.batch:
            return np.full(len(metadata), "", dtype=object)
        return batch_labels(metadata, self.step.spec.batch, self.schema)

    def shared(self, x: Float32[np.ndarray, "rows features"]) -> Float32[np.ndarray, "rows axes"]:
        """The part for all wells: rows (n, F) to (n, K)."""
        if self.shift is None:
            return x
        # In float64 until centered: a mean far from zero would cost the difference its digits.
        centered = x.astype(np.float64) - self.shift
        if self.scale is not None:
            centered /= self.scale
        x = centered.astype(np.float32)
        return x if self.rotation is None else x @ self.rotation

    def transform(self, profiles: Profiles) -> Profiles:
        """Correct profiles, all of whose batches are known."""
        labels = self.batch_labels(profiles.metadata)
        out = np.empty((len(profiles), len(self.out_names)), np.float32)
        for batch, rows in grouped(labels):
            for part in np.array_split(rows, max(1, len(rows) // 8192)):
                x = self.shared(profiles.features[part])
                out[part] = self.batches[batch].transform(x) if self.batches else x
        return Profiles(profiles.metadata, out, self.out_names)

    def missing(self, metadata: pd.DataFrame) -> list[str]:
        """The batches among these wells that it was not fitted on."""
        if not self.step.spec.batch:
            return []
        return sorted(set(self.batch_labels(metadata)) - set(self.batches))

    def with_batches(self, source: Source) -> "AffineStep":
        """The step with the batches that it lacked, fitted from their own reference wells.

        Raises:
          InputError: a batch has too few reference wells, or the step is ComBat, whose batches
            inform each other.
        """
        missing = self.missing(source.metadata)
        if missing and isinstance(self.step.spec, CombatSpec):
            raise InputError(
                f"{self.step.label} was fitted without batch {missing[0]}, and its batches inform "
                "each other; fit it anew on all batches."
            )
        if not missing:
            return self
        return replace(self, batches={**self.batches, **_fit_batches(self, source, missing)})

    def settings(self) -> dict[str, Any]:
        """What else than arrays a file must hold."""
        return {"batches": list(self.batches)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name, for a file."""
        named = {key: getattr(self, key) for key in ("shift", "scale", "rotation", "target")}
        for i, transform in enumerate(self.batches.values()):
            for key in ("shift", "scale", "matrix", "offset"):
                named[f"batch_{i}_{key}"] = getattr(transform, key)
        return {key: array for key, array in named.items() if array is not None}

    def restored(
        self, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
    ) -> "AffineStep":
        """The step with what `settings` and `arrays` gave.

        Raises:
          ValueError: arrays of other shapes than the settings say.
        """
        parts = ("shift", "scale", "matrix", "offset")
        batches = {
            name: BatchTransform(
                **{k: arrays[f"batch_{i}_{k}"] for k in parts if f"batch_{i}_{k}" in arrays}
            )
            for i, name in enumerate(settings["batches"])
        }
        result = replace(
            self,
            shift=arrays.get("shift"),
            scale=arrays.get("scale"),
            rotation=arrays.get("rotation"),
            target=arrays.get("target"),
            batches=batches,
        )
        width, axes = len(result.names), len(result.out_names)
        shapes = [
            (result.shift, (width,)),
            (result.scale, (width,)),
            (result.rotation, (width, axes)),
            (result.target, (axes, axes)),
        ]
        for transform in batches.values():
            shapes += [(transform.shift, (axes,)), (transform.scale, (axes,))]
            shapes += [(transform.matrix, (axes, axes)), (transform.offset, (axes,))]
        if any(array is not None and array.shape != shape for array, shape in shapes):
            raise ValueError("arrays of other shapes than the settings say")
        return result


def fit_affine(source: Source, step: Step, fit_on: str, schema: ColumnSchema) -> AffineStep:
    """Fit an affine step on the reference wells of a source.

    Raises:
      InputError: no reference wells, too few of them, or features that cannot be whitened.
    """
    fitted = AffineStep(step, fit_on, schema, source.names)
    spec = step.spec
    if isinstance(spec, AffineSpec) and spec.axes:
        fitted = _fit_axes(fitted, spec, source)
    elif isinstance(spec, AffineSpec) and spec.shift and not spec.batch:
        moments = _moments(fitted, source, full=False)
        scale = moments.deviation() if spec.scale else None
        fitted = replace(fitted, shift=moments.mean, scale=scale)
    elif isinstance(spec, MADSpec) and not spec.batch:
        parts = [_robust(spec, x) for _, x in reference_columns(source, fit_on, schema)]
        median, mad = (np.concatenate(column) for column in zip(*parts, strict=True))
        fitted = replace(fitted, shift=median, scale=mad)
    elif isinstance(spec, SpheringSpec) and not spec.batch:
        moments = _moments(fitted, source, full=True)
        scale, matrix = _sphering(spec, step, moments)
        fitted = replace(
            fitted, shift=moments.mean, scale=scale, rotation=matrix.astype(np.float32)
        )
    elif isinstance(spec, CombatSpec) and not spec.batch:
        raise InputError(f"{step.label} needs batches; name a column with the option batch.")
    if spec.batch:
        names = sorted(set(fitted.batch_labels(source.metadata)))
        if isinstance(spec, AffineSpec) and spec.recolor:
            fitted = replace(fitted, target=_target(fitted, spec, source, names))
        fitted = replace(fitted, batches=_fit_batches(fitted, source, names))
    return fitted


def _moments(fitted: AffineStep, source: Source, full: bool) -> Moments:
    moments = Moments.empty(len(source.names), full=full)
    for block in reference_rows(source, fitted.fit_on, fitted.schema):
        moments.add(block.features)
    return moments


def _fit_axes(fitted: AffineStep, spec: AffineSpec, source: Source) -> AffineStep:
    moments = _moments(fitted, source, full=True)
    if moments.count < 3:
        raise InputError(
            f"{fitted.step.label} needs at least 3 wells to fit on, there are {moments.count}; "
            "fit on all wells (--fit-on all) or choose another --method."
        )
    covariance = moments.covariance()
    scale = None
    if spec.axes == "tvn":
        scale = moments.deviation()
        covariance = covariance / np.outer(scale, scale)
    axes, variances = principal_axes(covariance, moments.count)
    if not len(variances):
        raise InputError(f"{fitted.step.label}: all features of the wells to fit on are constant.")
    keep = _axes_kept(fitted, spec, variances, source)
    axes, variances = axes[:, :keep], variances[:keep]
    if spec.axes == "tvn":
        axes = axes / np.sqrt(variances)
    elif spec.unit_variance:
        axes = axes / np.sqrt(variances * (moments.count / (moments.count - 1)))
    return replace(
        fitted, shift=moments.mean, scale=scale, rotation=np.ascontiguousarray(axes, np.float32)
    )


def _axes_kept(
    fitted: AffineStep, spec: AffineSpec, variances: Float[np.ndarray, " axes"], source: Source
) -> int:
    keep = min(spec.components or len(variances), len(variances))
    if spec.variance:
        share = np.cumsum(variances) / variances.sum()
        keep = min(int(np.searchsorted(share, spec.variance, side="right")) + 1, len(variances))
    if spec.clamp and spec.batch:
        labels = fitted.batch_labels(source.metadata)
        mask = reference_mask(source, fitted.fit_on, fitted.schema)
        fewest = min(len(rows) for _, rows in grouped(labels[mask]))
        if keep / fewest > spec.clamp:
            keep = max(fewest - 1, 1)
    return keep


def _robust(spec: MADSpec, x: Float[np.ndarray, "rows features"]) -> tuple[np.ndarray, np.ndarray]:
    """Median and factor · MAD + epsilon of each feature."""
    x = x.astype(np.float64)
    median = np.median(x, axis=0)
    mad = np.median(np.abs(x - median), axis=0) * spec.factor + spec.epsilon
    return median, np.where(mad > 0, mad, 1.0)


def _sphering(spec: SpheringSpec, step: Step, moments: Moments) -> tuple[Any, np.ndarray]:
    scale = None
    if spec.method.endswith("-cor"):
        scale = moments.deviation()
    try:
        return scale, sphering_matrix(moments, spec.method, spec.epsilon)
    except ValueError as problem:
        raise InputError(f"{step.label}: {problem}") from None


def _fit_batches(fitted: AffineStep, source: Source, names: list[str]) -> dict[str, BatchTransform]:
    """One transform for each named batch, from the reference wells of the batch in `source`."""
    spec = fitted.step.spec
    width = len(fitted.out_names)
    if isinstance(spec, AffineSpec) and not spec.whiten:
        min_wells = 2 if spec.scale else 1
        moments_of = _moments_of_batches(fitted, source, names, min_wells)
        return {name: _batch_transform(spec, moments_of[name]) for name in names}
    if isinstance(spec, CombatSpec):
        moments_of = _moments_of_batches(fitted, source, names, min_wells=2)
        maps = combat_batches([moments_of[name] for name in names])
        return {name: BatchTransform(*map_) for name, map_ in zip(names, maps, strict=True)}
    # A matrix per batch, or a median: one batch at a time, from rows held in memory.
    labels = fitted.batch_labels(source.metadata)
    mask = reference_mask(source, fitted.fit_on, fitted.schema)
    result: dict[str, BatchTransform] = {}
    for name in names:
        rows = np.flatnonzero(mask & (labels == name))
        _check_count(fitted, name, len(rows), min_wells=2)
        features = fitted.shared(source.take(rows).features)
        if isinstance(spec, MADSpec):
            median, mad = _robust(spec, features)
            result[name] = BatchTransform(median.astype(np.float32), mad.astype(np.float32))
        elif isinstance(spec, SpheringSpec):
            moments = Moments.empty(width, full=True)
            moments.add(features)
            scale, matrix = _sphering(spec, fitted.step, moments)
            scale = None if scale is None else scale.astype(np.float32)
            result[name] = BatchTransform(
                moments.mean.astype(np.float32), scale, matrix.astype(np.float32)
            )
        else:
            assert isinstance(spec, AffineSpec)
            shift, scale = _shift_and_scale(spec, features)
            z = features if scale is None else (features - shift) / scale
            matrix = inverse_root_of_rows(z, spec.ridge)
            if fitted.target is not None:
                matrix = matrix @ fitted.target
            result[name] = BatchTransform(shift, scale, matrix.astype(np.float32))
    return result


def _shift_and_scale(
    spec: AffineSpec, features: Float32[np.ndarray, "rows axes"]
) -> tuple[Float32[np.ndarray, " axes"], Float32[np.ndarray, " axes"] | None]:
    shift = features.mean(0, dtype=np.float64) if spec.shift else np.zeros(features.shape[1])
    if not spec.scale:
        return shift.astype(np.float32), None
    moments = Moments.empty(features.shape[1], full=False)
    moments.add(features)
    return shift.astype(np.float32), moments.deviation().astype(np.float32)


def _target(
    fitted: AffineStep, spec: AffineSpec, source: Source, names: list[str]
) -> Float[np.ndarray, "axes axes"]:
    """(C + ridge I)^(1/2), C the covariance (ddof 1) of all batches' wells before whitening."""
    labels = fitted.batch_labels(source.metadata)
    mask = reference_mask(source, fitted.fit_on, fitted.schema)
    width = len(fitted.out_names)
    moments = Moments.empty(width, full=True)
    for name in names:
        rows = np.flatnonzero(mask & (labels == name))
        _check_count(fitted, name, len(rows), min_wells=2)
        features = fitted.shared(source.take(rows).features)
        shift, scale = _shift_and_scale(spec, features)
        moments.add(BatchTransform(shift, scale).transform(features))
    return root(moments.covariance(ddof=1) + spec.ridge * np.eye(width))


def _moments_of_batches(
    fitted: AffineStep, source: Source, names: list[str], min_wells: int
) -> dict[str, Moments]:
    width = len(fitted.out_names)
    moments_of: dict[str, Moments] = {}
    for block in reference_rows(source, fitted.fit_on, fitted.schema):
        for name, rows in grouped(fitted.batch_labels(block.metadata)):
            moments = moments_of.setdefault(name, Moments.empty(width, full=False))
            moments.add(fitted.shared(block.features[rows]))
    for name in names:
        _check_count(fitted, name, moments_of[name].count if name in moments_of else 0, min_wells)
    return moments_of


def _batch_transform(spec: AffineSpec, moments: Moments) -> BatchTransform:
    shift = moments.mean if spec.shift else np.zeros_like(moments.mean)
    scale = moments.deviation().astype(np.float32) if spec.scale else None
    return BatchTransform(shift.astype(np.float32), scale, None)


def _check_count(fitted: AffineStep, batch: str, count: int, min_wells: int) -> None:
    if count < min_wells:
        wells_text = "negative controls" if fitted.fit_on == "controls" else "wells"
        raise InputError(
            f"{fitted.step.label} needs at least {min_wells} {wells_text} in every batch, but "
            f"{batch or 'a batch without a name'} has {count}; drop it, fit on all wells, or "
            "group otherwise."
        )
