"""Batch correction: the nine rows of Table 2, fitted once and applied to any plates.

Every row is an affine map in two parts: one for all wells (scale, rotate), one for each batch
(shift, scale or whiten). What is fitted on is the negative controls by default, since they are
the same cells with the same treatment in every batch: what differs between them is the batch.
Fitting on all wells takes that each batch holds alike biology, which randomised layouts give and
whole-genome screens, with other genes on other plates, do not; there it removes biology too.
"""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.evaluation.moments import Moments, inverse_root_of_rows, principal_axes
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels, control_mask
from mae_jax.files import replacing

# Name on the command line -> name in Table 2.
CORRECTIONS = {
    "none": "No transformation",
    "pca": "PCA",
    "center-plate": "Center by plate",
    "center-experiment": "Center by experiment",
    "standardize-plate": "Standardize by plate",
    "standardize-experiment": "Standardize by experiment",
    "pca-standardize-plate": "PCA+Standardize by plate",
    "pca-standardize-experiment": "PCA+Standardize by experiment",
    "tvn": "TVN",
}
# Not in the paper.
VARIANTS = {"tvn-centered": "TVN, each batch's controls centered"}

# Added to the diagonal of each batch's control covariance in TVN (EFAAR's value).
TVN_RIDGE = 0.5

# Keys of saved fits: what earlier versions wrote -> today's name.
_RENAMED_KEYS = {"plan": "spec", "layout": "schema"}


@runtime_checkable
class Source(Protocol):
    """Profiles in memory, or on disk and read block by block."""

    @property
    def metadata(self) -> pd.DataFrame:
        """One row per well."""

    @property
    def names(self) -> tuple[str, ...]:
        """The feature names."""

    def blocks(self) -> Iterator[Profiles]:
        """The rows, in order, a few thousand at a time."""

    def take(self, rows: np.ndarray) -> Profiles:
        """Some rows, in memory."""


@dataclass(frozen=True)
class CorrectionSpec:
    """What a correction consists of.

    Attributes:
      axes: "" (keep the features), "pca" (centre, rotate) or "tvn" (z-score, rotate, z-score).
      batch: "" (one map for all), "plate", "experiment" or a metadata column.
      shift: subtract each batch's mean.
      scale: divide by each batch's σ.
      whiten: multiply by (C_b + 0.5 I)^(−1/2).
    """

    axes: str = ""
    batch: str = ""
    shift: bool = False
    scale: bool = False
    whiten: bool = False

    @staticmethod
    def from_name(method: str, batch: str | None = None) -> "CorrectionSpec":
        """The spec of a correction by name; `batch` overrides its grouping.

        Raises:
          InputError: there is no such correction.
        """
        known = {**CORRECTIONS, **VARIANTS}
        if method not in known:
            raise InputError(f"There is no correction '{method}': {nearest(method, list(known))}")
        if method in ("none", "pca"):
            return CorrectionSpec(axes="" if method == "none" else "pca")
        if method.startswith("tvn"):
            # By experiment: a plate seldom has enough controls for a covariance.
            shift = method == "tvn-centered"
            return CorrectionSpec("tvn", batch or "experiment", shift=shift, whiten=True)
        what, _, grouping = method.rpartition("-")
        axes = "pca" if what.startswith("pca") else ""
        return CorrectionSpec(axes, batch or grouping, shift=True, scale="standardize" in what)


@dataclass(frozen=True)
class BatchTransform:
    """A batch's part of a correction: x ↦ (x − shift)·matrix, or (x − shift)/scale.

    Attributes:
      shift: (K,).
      scale: σ (K,), or None.
      matrix: (K, K), or None.
    """

    shift: Float32[np.ndarray, " axes"]
    scale: Float32[np.ndarray, " axes"] | None = None
    matrix: Float32[np.ndarray, "axes axes"] | None = None

    def transform(self, x: Float32[np.ndarray, "rows axes"]) -> Float32[np.ndarray, "rows axes"]:
        """Maps rows (n, K)."""
        x = x - self.shift
        if self.scale is not None:
            x /= self.scale
        return x if self.matrix is None else x @ self.matrix


@dataclass(frozen=True)
class Correction:
    """A fitted correction.

    Attributes:
      method: its name in `CORRECTIONS` or `VARIANTS`.
      spec: what it consists of.
      fit_on: "controls" or "all".
      schema: the metadata columns it was fitted with.
      names: the F features it takes.
      shift, scale: (F,), x ↦ (x − shift)/scale for all wells; shift None = left alone.
      rotation: (F, K), or None.
      batches: each batch's own part.
    """

    method: str
    spec: CorrectionSpec
    fit_on: str
    schema: ColumnSchema
    names: tuple[str, ...]
    shift: Float[np.ndarray, " features"] | None
    scale: Float[np.ndarray, " features"] | None
    rotation: Float32[np.ndarray, "features axes"] | None
    batches: dict[str, BatchTransform]

    @property
    def out_names(self) -> tuple[str, ...]:
        """The names of the K features it gives."""
        if self.rotation is None:
            return self.names
        kind = self.spec.axes.upper()
        return tuple(f"Image_{kind}_{i:04d}" for i in range(self.rotation.shape[1]))

    def shared(self, x: Float32[np.ndarray, "rows features"]) -> Float32[np.ndarray, "rows axes"]:
        """The part for all wells: rows (n, F) to (n, K)."""
        if self.shift is None:
            return x
        # In float64 until centred: a mean far from zero would cost the difference its digits.
        centred = x.astype(np.float64) - self.shift
        if self.scale is not None:
            centred /= self.scale
        x = centred.astype(np.float32)
        return x if self.rotation is None else x @ self.rotation

    def transform(self, profiles: Profiles) -> Profiles:
        """Corrects profiles: those it was fitted on, or new ones.

        A batch that the fit never saw is fitted here from its own reference wells (the shared
        part stays as it was), so that new plates land in the same space.

        Raises:
          InputError: other features than those of the fit, or a new batch without controls.
        """
        fitted = self.fit_missing_batches(profiles)
        labels = fitted._labels(profiles.metadata)
        out = np.empty((len(profiles), len(self.out_names)), np.float32)
        for batch, rows in _groups(labels):
            for part in np.array_split(rows, max(1, len(rows) // 8192)):
                x = fitted.shared(profiles.features[part])
                out[part] = fitted.batches[batch].transform(x) if fitted.batches else x
        return Profiles(profiles.metadata, out, self.out_names)

    def fit_missing_batches(self, source: Source) -> "Correction":
        """The correction with the batches that it lacked, fitted from their own reference wells."""
        if source.names != self.names:
            raise InputError(
                f"The correction was fitted on {len(self.names)} features "
                f"({self.names[0]} …), these profiles have {len(source.names)} "
                f"({source.names[0]} …); give profiles of the same model."
            )
        if not self.spec.batch:
            return self
        missing = sorted(set(self._labels(source.metadata)) - set(self.batches))
        if not missing:
            return self
        return replace(self, batches={**self.batches, **_fit_batches(self, source, missing)})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the fit as one .npz file, to be applied to new plates later (`load`)."""
        settings = {
            "method": self.method,
            "spec": asdict(self.spec),
            "fit_on": self.fit_on,
            "schema": asdict(self.schema),
            "names": list(self.names),
            "batches": list(self.batches),
        }
        arrays = {"settings": np.array(json.dumps(settings))}
        for key in ("shift", "scale", "rotation"):
            if getattr(self, key) is not None:
                arrays[key] = getattr(self, key)
        for i, one in enumerate(self.batches.values()):
            for key in ("shift", "scale", "matrix"):
                if getattr(one, key) is not None:
                    arrays[f"batch_{i}_{key}"] = getattr(one, key)
        with replacing(path) as beside, open(beside, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Correction":
        """Reads what `save` wrote.

        Raises:
          InputError: no such file, or not a fitted correction.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; write it with `mae-jax correct --save-fit`.")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            settings = json.loads(str(arrays["settings"]))
            for old, new in _RENAMED_KEYS.items():
                if old in settings:
                    settings[new] = settings.pop(old)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            raise InputError(f"{path} is not a fitted correction; write it anew.") from None
        parts = ("shift", "scale", "matrix")
        batches = {
            name: BatchTransform(
                **{k: arrays[f"batch_{i}_{k}"] for k in parts if f"batch_{i}_{k}" in arrays}
            )
            for i, name in enumerate(settings["batches"])
        }
        return Correction(
            method=settings["method"],
            spec=CorrectionSpec(**settings["spec"]),
            fit_on=settings["fit_on"],
            schema=ColumnSchema(**settings["schema"]),
            names=tuple(settings["names"]),
            shift=arrays.get("shift"),
            scale=arrays.get("scale"),
            rotation=arrays.get("rotation"),
            batches=batches,
        )

    def _labels(self, metadata: pd.DataFrame) -> np.ndarray:
        if not self.spec.batch:
            return np.full(len(metadata), "", dtype=object)
        return batch_labels(metadata, self.spec.batch, self.schema)


def fit(
    source: Source,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Correction:
    """Fits a correction of Table 2.

    PCA keeps all axes that have variance. TVN is EFAAR's: (1) z-score with the pooled controls,
    (2) PCA of full rank fitted on the controls, (3) z-score with the pooled controls again,
    (4) per batch X_b ← X_b (cov(controls of b, ddof 1) + 0.5 I)^(−1/2), without moving the
    batch's mean: plate offsets survive it. "tvn-centered" first subtracts the mean of each
    batch's controls. Steps 1 to 3 are one affine map, and so is step 4 for each batch.

    Args:
      source: `Profiles`, or a stream of them.
      method: a name in `CORRECTIONS` or `VARIANTS`.
      fit_on: "controls" (default: see the module) or "all".
      batch: the grouping, in place of the method's own: "plate", "experiment" or a column. For
        TVN the default is "experiment".
      schema: the metadata columns and which rows are controls.

    Raises:
      InputError: an unknown method, no controls, or a batch with too few of them.
    """
    schema = schema or ColumnSchema()
    spec = CorrectionSpec.from_name(method, batch)
    if fit_on not in ("controls", "all"):
        raise InputError(f"A correction is fitted on 'controls' or 'all', not '{fit_on}'.")
    fitted = Correction(method, spec, fit_on, schema, source.names, None, None, None, {})
    if spec.axes:
        moments = Moments.empty(len(source.names), full=True)
        for block in _reference(source, fit_on, schema):
            moments.add(block.features)
        fitted = _fit_axes(fitted, moments)
    if spec.batch:
        wanted = sorted(set(fitted._labels(source.metadata)))
        fitted = replace(fitted, batches=_fit_batches(fitted, source, wanted))
    return fitted


def correct(
    profiles: Profiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Profiles:
    """Fits a correction on profiles and applies it to them: `fit`, then `Correction.transform`."""
    return fit(profiles, method, fit_on=fit_on, batch=batch, schema=schema).transform(profiles)


def label(method: str) -> str:
    """A correction's name in Table 2."""
    CorrectionSpec.from_name(method)  # refuses an unknown one
    return {**CORRECTIONS, **VARIANTS}[method]


def _fit_axes(fitted: Correction, moments: Moments) -> Correction:
    if moments.count < 3:
        raise InputError(
            f"{label(fitted.method)} needs at least 3 wells to fit on, there are {moments.count}; "
            "fit on all wells or choose another correction."
        )
    covariance = moments.covariance()
    scale = None
    if fitted.spec.axes == "tvn":
        scale = moments.deviation()
        covariance = covariance / np.outer(scale, scale)
    axes, variances = principal_axes(covariance, moments.count)
    if not len(variances):
        raise InputError(
            f"{label(fitted.method)}: all features of the wells to fit on are constant."
        )
    if fitted.spec.axes == "tvn":
        axes = axes / np.sqrt(variances)
    return replace(
        fitted, shift=moments.mean, scale=scale, rotation=np.ascontiguousarray(axes, np.float32)
    )


def _fit_batches(
    fitted: Correction, source: Source, wanted: list[str]
) -> dict[str, BatchTransform]:
    spec = fitted.spec
    width = len(fitted.out_names)
    # Whitening takes a K × K matrix a batch: one batch at a time, from rows held in memory.
    found: dict[str, Moments] = {}
    least = 2 if spec.scale or spec.whiten else 1
    maps: dict[str, BatchTransform] = {}
    if spec.whiten:
        labels = fitted._labels(source.metadata)
        mask = _reference_mask(source, fitted.fit_on, fitted.schema)
        for name in wanted:
            rows = np.flatnonzero(mask & (labels == name))
            _enough(fitted, name, len(rows), least)
            features = fitted.shared(source.take(rows).features)
            shift = features.mean(0, dtype=np.float64) if spec.shift else np.zeros(width)
            matrix = inverse_root_of_rows(features, TVN_RIDGE)
            maps[name] = BatchTransform(shift.astype(np.float32), None, matrix.astype(np.float32))
        return maps
    for block in _reference(source, fitted.fit_on, fitted.schema):
        for name, rows in _groups(fitted._labels(block.metadata)):
            moments = found.setdefault(name, Moments.empty(width, full=False))
            moments.add(fitted.shared(block.features[rows]))
    for name in wanted:
        _enough(fitted, name, found[name].count if name in found else 0, least)
        maps[name] = _batch_transform(spec, found[name])
    return maps


def _batch_transform(spec: CorrectionSpec, moments: Moments) -> BatchTransform:
    shift = moments.mean if spec.shift else np.zeros_like(moments.mean)
    scale = moments.deviation().astype(np.float32) if spec.scale else None
    return BatchTransform(shift.astype(np.float32), scale, None)


def _enough(fitted: Correction, batch: str, count: int, least: int) -> None:
    if count < least:
        what = "negative controls" if fitted.fit_on == "controls" else "wells"
        raise InputError(
            f"{label(fitted.method)} needs at least {least} {what} in every batch, but "
            f"{batch or 'a batch without a name'} has {count}; drop it, fit on all wells, or "
            "group otherwise."
        )


def _reference_mask(source: Source, fit_on: str, schema: ColumnSchema) -> np.ndarray:
    if fit_on == "all":
        return np.ones(len(source.metadata), bool)
    return control_mask(source.metadata, schema.controls)


def _reference(source: Source, fit_on: str, schema: ColumnSchema) -> Iterator[Profiles]:
    """The rows to fit on, block by block."""
    mask = _reference_mask(source, fit_on, schema)
    at = 0
    for block in source.blocks():
        here = mask[at : at + len(block)]
        at += len(block)
        if here.any():
            yield block.take(here)


def _groups(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every label with its row numbers."""
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    for name, rows in zip(names, np.split(order, ends[:-1]), strict=True):
        yield str(name), rows
