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
from mae_jax.evaluation.profiles import Layout, Profiles, batch_labels, control_mask
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
class Plan:
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
    def of(method: str, batch: str | None = None) -> "Plan":
        """The plan of a correction by name; `batch` overrides its grouping.

        Raises:
          InputError: there is no such correction.
        """
        known = {**CORRECTIONS, **VARIANTS}
        if method not in known:
            raise InputError(f"There is no correction '{method}': {nearest(method, list(known))}")
        if method in ("none", "pca"):
            return Plan(axes="" if method == "none" else "pca")
        if method.startswith("tvn"):
            # By experiment: a plate seldom has enough controls for a covariance.
            shift = method == "tvn-centered"
            return Plan("tvn", batch or "experiment", shift=shift, whiten=True)
        what, _, grouping = method.rpartition("-")
        axes = "pca" if what.startswith("pca") else ""
        return Plan(axes, batch or grouping, shift=True, scale="standardize" in what)


@dataclass(frozen=True)
class BatchMap:
    """A batch's part of a correction: x ↦ (x − shift)·matrix, or (x − shift)/scale.

    Attributes:
      shift: (K,).
      scale: σ (K,), or None.
      matrix: (K, K), or None.
    """

    shift: Float32[np.ndarray, " axes"]
    scale: Float32[np.ndarray, " axes"] | None = None
    matrix: Float32[np.ndarray, "axes axes"] | None = None

    def apply(self, x: Float32[np.ndarray, "rows axes"]) -> Float32[np.ndarray, "rows axes"]:
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
      plan: what it consists of.
      fit_on: "controls" or "all".
      layout: the metadata columns it was fitted with.
      names: the F features it takes.
      shift, scale: (F,), x ↦ (x − shift)/scale for all wells; shift None = left alone.
      rotation: (F, K), or None.
      batches: each batch's own part.
    """

    method: str
    plan: Plan
    fit_on: str
    layout: Layout
    names: tuple[str, ...]
    shift: Float[np.ndarray, " features"] | None
    scale: Float[np.ndarray, " features"] | None
    rotation: Float32[np.ndarray, "features axes"] | None
    batches: dict[str, BatchMap]

    @property
    def out_names(self) -> tuple[str, ...]:
        """The names of the K features it gives."""
        if self.rotation is None:
            return self.names
        kind = self.plan.axes.upper()
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

    def apply(self, profiles: Profiles) -> Profiles:
        """Corrects profiles: those it was fitted on, or new ones.

        A batch that the fit never saw is fitted here from its own reference wells (the shared
        part stays as it was), so that new plates land in the same space.

        Raises:
          InputError: other features than those of the fit, or a new batch without controls.
        """
        fitted = self.covering(profiles)
        labels = fitted._labels(profiles.metadata)
        out = np.empty((len(profiles), len(self.out_names)), np.float32)
        for batch, rows in _groups(labels):
            for part in np.array_split(rows, max(1, len(rows) // 8192)):
                x = fitted.shared(profiles.features[part])
                out[part] = fitted.batches[batch].apply(x) if fitted.batches else x
        return Profiles(profiles.metadata, out, self.out_names)

    def covering(self, source: Source) -> "Correction":
        """The correction with the batches that it lacked, fitted from their own reference wells."""
        if source.names != self.names:
            raise InputError(
                f"The correction was fitted on {len(self.names)} features "
                f"({self.names[0]} …), these profiles have {len(source.names)} "
                f"({source.names[0]} …); give profiles of the same model."
            )
        if not self.plan.batch:
            return self
        missing = sorted(set(self._labels(source.metadata)) - set(self.batches))
        if not missing:
            return self
        return replace(self, batches={**self.batches, **_fit_batches(self, source, missing)})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the fit as one .npz file, to be applied to new plates later (`load`)."""
        settings = {
            "method": self.method,
            "plan": asdict(self.plan),
            "fit_on": self.fit_on,
            "layout": asdict(self.layout),
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
        except (ValueError, KeyError, OSError, zipfile.BadZipFile):
            raise InputError(f"{path} is not a fitted correction; write it anew.") from None
        parts = ("shift", "scale", "matrix")
        batches = {
            name: BatchMap(
                **{k: arrays[f"batch_{i}_{k}"] for k in parts if f"batch_{i}_{k}" in arrays}
            )
            for i, name in enumerate(settings["batches"])
        }
        return Correction(
            method=settings["method"],
            plan=Plan(**settings["plan"]),
            fit_on=settings["fit_on"],
            layout=Layout(**settings["layout"]),
            names=tuple(settings["names"]),
            shift=arrays.get("shift"),
            scale=arrays.get("scale"),
            rotation=arrays.get("rotation"),
            batches=batches,
        )

    def _labels(self, metadata: pd.DataFrame) -> np.ndarray:
        if not self.plan.batch:
            return np.full(len(metadata), "", dtype=object)
        return batch_labels(metadata, self.plan.batch, self.layout)


def fit(
    source: Source,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    layout: Layout | None = None,
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
      layout: the metadata columns and which rows are controls.

    Raises:
      InputError: an unknown method, no controls, or a batch with too few of them.
    """
    layout = layout or Layout()
    plan = Plan.of(method, batch)
    if fit_on not in ("controls", "all"):
        raise InputError(f"A correction is fitted on 'controls' or 'all', not '{fit_on}'.")
    fitted = Correction(method, plan, fit_on, layout, source.names, None, None, None, {})
    if plan.axes:
        moments = Moments.empty(len(source.names), full=True)
        for block in _reference(source, fit_on, layout):
            moments.add(block.features)
        fitted = _fit_axes(fitted, moments)
    if plan.batch:
        wanted = sorted(set(fitted._labels(source.metadata)))
        fitted = replace(fitted, batches=_fit_batches(fitted, source, wanted))
    return fitted


def correct(
    profiles: Profiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    layout: Layout | None = None,
) -> Profiles:
    """Fits a correction on profiles and applies it to them: `fit`, then `Correction.apply`."""
    return fit(profiles, method, fit_on=fit_on, batch=batch, layout=layout).apply(profiles)


def label(method: str) -> str:
    """A correction's name in Table 2."""
    Plan.of(method)  # refuses an unknown one
    return {**CORRECTIONS, **VARIANTS}[method]


def _fit_axes(fitted: Correction, moments: Moments) -> Correction:
    if moments.count < 3:
        raise InputError(
            f"{label(fitted.method)} needs at least 3 wells to fit on, there are {moments.count}; "
            "fit on all wells or choose another correction."
        )
    covariance = moments.covariance()
    scale = None
    if fitted.plan.axes == "tvn":
        scale = moments.deviation()
        covariance = covariance / np.outer(scale, scale)
    axes, variances = principal_axes(covariance, moments.count)
    if not len(variances):
        raise InputError(
            f"{label(fitted.method)}: all features of the wells to fit on are constant."
        )
    if fitted.plan.axes == "tvn":
        axes = axes / np.sqrt(variances)
    return replace(
        fitted, shift=moments.mean, scale=scale, rotation=np.ascontiguousarray(axes, np.float32)
    )


def _fit_batches(fitted: Correction, source: Source, wanted: list[str]) -> dict[str, BatchMap]:
    plan = fitted.plan
    width = len(fitted.out_names)
    # Whitening takes a K × K matrix a batch: one batch at a time, from rows held in memory.
    found: dict[str, Moments] = {}
    least = 2 if plan.scale or plan.whiten else 1
    maps: dict[str, BatchMap] = {}
    if plan.whiten:
        labels = fitted._labels(source.metadata)
        mask = _reference_mask(source, fitted.fit_on, fitted.layout)
        for name in wanted:
            rows = np.flatnonzero(mask & (labels == name))
            _enough(fitted, name, len(rows), least)
            features = fitted.shared(source.take(rows).features)
            shift = features.mean(0, dtype=np.float64) if plan.shift else np.zeros(width)
            matrix = inverse_root_of_rows(features, TVN_RIDGE)
            maps[name] = BatchMap(shift.astype(np.float32), None, matrix.astype(np.float32))
        return maps
    for block in _reference(source, fitted.fit_on, fitted.layout):
        for name, rows in _groups(fitted._labels(block.metadata)):
            moments = found.setdefault(name, Moments.empty(width, full=False))
            moments.add(fitted.shared(block.features[rows]))
    for name in wanted:
        _enough(fitted, name, found[name].count if name in found else 0, least)
        maps[name] = _batch_map(plan, found[name])
    return maps


def _batch_map(plan: Plan, moments: Moments) -> BatchMap:
    shift = moments.mean if plan.shift else np.zeros_like(moments.mean)
    scale = moments.deviation().astype(np.float32) if plan.scale else None
    return BatchMap(shift.astype(np.float32), scale, None)


def _enough(fitted: Correction, batch: str, count: int, least: int) -> None:
    if count < least:
        what = "negative controls" if fitted.fit_on == "controls" else "wells"
        raise InputError(
            f"{label(fitted.method)} needs at least {least} {what} in every batch, but "
            f"{batch or 'a batch without a name'} has {count}; drop it, fit on all wells, or "
            "group otherwise."
        )


def _reference_mask(source: Source, fit_on: str, layout: Layout) -> np.ndarray:
    if fit_on == "all":
        return np.ones(len(source.metadata), bool)
    return control_mask(source.metadata, layout.controls)


def _reference(source: Source, fit_on: str, layout: Layout) -> Iterator[Profiles]:
    """The rows to fit on, block by block."""
    mask = _reference_mask(source, fit_on, layout)
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
