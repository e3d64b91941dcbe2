"""A fitted correction: applied to wells, extended to new batches, saved and loaded."""

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, UInt64

from mae_jax.errors import InputError
from mae_jax.evaluation.correction_spec import CorrectionSpec, label
from mae_jax.evaluation.moments import Moments, inverse_root_of_rows
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, batch_labels, control_mask
from mae_jax.files import replacing

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
        """Map rows (n, K)."""
        x = x - self.shift
        if self.scale is not None:
            x /= self.scale
        return x if self.matrix is None else x @ self.matrix


@dataclass(frozen=True)
class Correction:
    """A fitted correction.

    Attributes:
      method: its name in `CORRECTIONS`.
      spec: what it consists of.
      fit_on: "controls" or "all".
      schema: the metadata columns it was fitted with.
      names: the F features it takes.
      shift, scale: (F,), x ↦ (x − shift)/scale for all wells; shift None = left alone.
      rotation: (F, K), or None.
      batches: each batch's own part.
      fit_wells: hashes of the wells that it was fitted on (`well_hashes`).
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
    fit_wells: UInt64[np.ndarray, " wells"] = field(default_factory=lambda: np.empty(0, np.uint64))

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
        # In float64 until centered: a mean far from zero would cost the difference its digits.
        centered = x.astype(np.float64) - self.shift
        if self.scale is not None:
            centered /= self.scale
        x = centered.astype(np.float32)
        return x if self.rotation is None else x @ self.rotation

    def transform(self, profiles: Profiles) -> Profiles:
        """Correct profiles: those it was fitted on, or new ones.

        A batch that the fit never saw is fitted here from its own reference wells (the shared
        part stays as it was), so that new plates land in the same space.

        Raises:
          InputError: other features than those of the fit, or a new batch without controls.
        """
        fitted = self.fit_missing_batches(profiles)
        labels = fitted.batch_labels(profiles.metadata)
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
                f"the correction was fitted on {len(self.names)} features "
                f"({self.names[0]} …), these profiles have {len(source.names)} "
                f"({source.names[0]} …); give profiles of the same model."
            )
        if not self.spec.batch:
            return self
        missing = sorted(set(self.batch_labels(source.metadata)) - set(self.batches))
        if not missing:
            return self
        mask = reference_mask(source, self.fit_on, self.schema)
        mask = mask & np.isin(self.batch_labels(source.metadata).astype(str), missing)
        return replace(
            self,
            batches={**self.batches, **fit_batches(self, source, missing)},
            fit_wells=np.union1d(self.fit_wells, well_hashes(source.metadata[mask], self.schema)),
        )

    def saw(self, metadata: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
        """Which wells the correction was fitted on; all False for fits of earlier versions."""
        hashes = well_hashes(metadata, self.schema)
        return (hashes != 0) & np.isin(hashes, self.fit_wells)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fit as one .npz file, to be applied to new plates later (`load`)."""
        settings = {
            "method": self.method,
            "spec": {key: v for key, v in asdict(self.spec).items() if key != "label"},
            "fit_on": self.fit_on,
            "schema": asdict(self.schema),
            "names": list(self.names),
            "batches": list(self.batches),
        }
        arrays = {"settings": np.array(json.dumps(settings))}
        for key in ("shift", "scale", "rotation"):
            if getattr(self, key) is not None:
                arrays[key] = getattr(self, key)
        for i, transform in enumerate(self.batches.values()):
            for key in ("shift", "scale", "matrix"):
                if getattr(transform, key) is not None:
                    arrays[f"batch_{i}_{key}"] = getattr(transform, key)
        arrays["fit_wells"] = self.fit_wells
        with replacing(path) as tmp_path, open(tmp_path, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        return Path(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Correction":
        """Read what `save` wrote.

        Raises:
          InputError: no such file, or not a fitted correction.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist; write it with `mae-jax correct --save-fit`.")
        try:
            # Opened here, since numpy leaves a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            settings = json.loads(str(arrays["settings"]))
            for old, new in _RENAMED_KEYS.items():
                if old in settings:
                    settings[new] = settings.pop(old)
            correction = Correction._from_arrays(settings, arrays)
        except (
            AttributeError, EOFError, KeyError, MemoryError, OSError, RuntimeError, TypeError,
            ValueError, zipfile.BadZipFile, zlib.error,
        ):  # fmt: skip
            raise InputError(f"{path} is not a fitted correction; write it anew.") from None
        return correction

    @staticmethod
    def _from_arrays(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Correction":
        parts = ("shift", "scale", "matrix")
        batches = {
            name: BatchTransform(
                **{k: arrays[f"batch_{i}_{k}"] for k in parts if f"batch_{i}_{k}" in arrays}
            )
            for i, name in enumerate(settings["batches"])
        }
        result = Correction(
            method=settings["method"],
            spec=CorrectionSpec(**settings["spec"]),
            fit_on=settings["fit_on"],
            schema=ColumnSchema(**settings["schema"]),
            names=tuple(settings["names"]),
            shift=arrays.get("shift"),
            scale=arrays.get("scale"),
            rotation=arrays.get("rotation"),
            batches=batches,
            fit_wells=arrays.get("fit_wells", np.empty(0, np.uint64)),
        )
        width, axes = len(result.names), len(result.out_names)
        shapes = [
            (result.shift, (width,)),
            (result.scale, (width,)),
            (result.rotation, (width, axes)),
        ]
        for transform in batches.values():
            shapes += [(transform.shift, (axes,)), (transform.scale, (axes,))]
            shapes += [(transform.matrix, (axes, axes))]
        if any(array is not None and array.shape != shape for array, shape in shapes):
            raise ValueError("arrays of other shapes than the settings say")
        return result

    def batch_labels(self, metadata: pd.DataFrame) -> np.ndarray:
        """Each row's batch by the correction's grouping, (N,) strings; "" if it has none.

        Raises:
          InputError: the metadata lack the column to group by.
        """
        if not self.spec.batch:
            return np.full(len(metadata), "", dtype=object)
        return batch_labels(metadata, self.spec.batch, self.schema)


def fit_batches(fitted: Correction, source: Source, names: list[str]) -> dict[str, BatchTransform]:
    """Fit the second part of a correction: one transform for each batch.

    Args:
      fitted: the correction with its part for all wells, which the wells pass first.
      source: wells of these batches; the reference wells among them are fitted on.
      names: the batches to fit, as `Correction.batch_labels` names them.

    Raises:
      InputError: a batch has too few reference wells.
    """
    spec = fitted.spec
    width = len(fitted.out_names)
    # Whitening takes one K × K matrix per batch: one batch at a time, from rows held in memory.
    moments_of: dict[str, Moments] = {}
    min_wells = 2 if spec.scale or spec.whiten else 1
    maps: dict[str, BatchTransform] = {}
    if spec.whiten:
        labels = fitted.batch_labels(source.metadata)
        mask = reference_mask(source, fitted.fit_on, fitted.schema)
        for name in names:
            rows = np.flatnonzero(mask & (labels == name))
            _check_count(fitted, name, len(rows), min_wells)
            features = fitted.shared(source.take(rows).features)
            shift = features.mean(0, dtype=np.float64) if spec.shift else np.zeros(width)
            matrix = inverse_root_of_rows(features, TVN_RIDGE)
            maps[name] = BatchTransform(shift.astype(np.float32), None, matrix.astype(np.float32))
        return maps
    for block in reference_rows(source, fitted.fit_on, fitted.schema):
        for name, rows in _groups(fitted.batch_labels(block.metadata)):
            moments = moments_of.setdefault(name, Moments.empty(width, full=False))
            moments.add(fitted.shared(block.features[rows]))
    for name in names:
        _check_count(fitted, name, moments_of[name].count if name in moments_of else 0, min_wells)
        maps[name] = _batch_transform(spec, moments_of[name])
    return maps


def _batch_transform(spec: CorrectionSpec, moments: Moments) -> BatchTransform:
    shift = moments.mean if spec.shift else np.zeros_like(moments.mean)
    scale = moments.deviation().astype(np.float32) if spec.scale else None
    return BatchTransform(shift.astype(np.float32), scale, None)


def _check_count(fitted: Correction, batch: str, count: int, min_wells: int) -> None:
    if count < min_wells:
        wells_text = "negative controls" if fitted.fit_on == "controls" else "wells"
        raise InputError(
            f"{label(fitted.method)} needs at least {min_wells} {wells_text} in every batch, but "
            f"{batch or 'a batch without a name'} has {count}; drop it, fit on all wells, or "
            "group otherwise."
        )


def reference_mask(source: Source, fit_on: str, schema: ColumnSchema) -> Bool[np.ndarray, " rows"]:
    """Which rows are fitted on: the negative controls (`fit_on` "controls") or all.

    Raises:
      InputError: no row is a negative control.
    """
    if fit_on == "all":
        return np.ones(len(source.metadata), bool)
    return control_mask(source.metadata, schema.controls)


def reference_rows(source: Source, fit_on: str, schema: ColumnSchema) -> Iterator[Profiles]:
    """The rows to fit on, block by block."""
    mask = reference_mask(source, fit_on, schema)
    start = 0
    for block in source.blocks():
        selected = mask[start : start + len(block)]
        start += len(block)
        if selected.any():
            yield block.take(selected)


def _groups(labels: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Every label with its row numbers."""
    names, codes = np.unique(labels.astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    for name, rows in zip(names, np.split(order, ends[:-1]), strict=True):
        yield str(name), rows


def well_hashes(metadata: pd.DataFrame, schema: ColumnSchema) -> UInt64[np.ndarray, " rows"]:
    """A hash of experiment, plate and well of every row, the same in every process; 0 where the
    table does not name wells.
    """
    columns = [c for c in (schema.experiment, schema.plate, schema.well) if c in metadata]
    if schema.well not in columns:
        return np.zeros(len(metadata), np.uint64)
    keys = (
        metadata[columns].astype(str).agg("/".join, axis=1)
        if len(metadata)
        else metadata[columns[0]]
    )
    return pd.util.hash_array(keys.to_numpy(dtype=object))
