"""Profiles: a table of embeddings with metadata, whoever made them.

The evaluation knows nothing of models or images. Its input is N rows (wells, as a rule) with
string metadata and F float32 features, read from a folder that `mae-jax embed` wrote, from a
parquet or CSV file (pycytominer's, EFAAR's), or from AnnData's .h5ad.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int

from mae_jax.config import nearest
from mae_jax.embeddings.table_files import write_table
from mae_jax.errors import InputError
from mae_jax.evaluation import table_formats as formats
from mae_jax.evaluation.columns import METADATA, ReadOptions
from mae_jax.html_table import html_table


@dataclass(frozen=True)
class ColumnSchema:
    """Which metadata columns play which part in a screen.

    `controls` selects the negative controls as `COLUMN=VALUE`, or `COLUMN=VALUE|VALUE`; "none"
    says that the screen has none.
    """

    experiment: str = "Metadata_Experiment"
    plate: str = "Metadata_Plate"
    well: str = "Metadata_Well"
    perturbation: str = "Metadata_Perturbation"
    gene: str = "Metadata_Gene"
    controls: str = "Metadata_ControlType=negcon"

    @property
    def origin_controls(self) -> str | None:
        """The controls whose mean is the origin of a map; None: there are none."""
        return None if self.controls == "none" else self.controls


@dataclass(frozen=True)
class Profiles:
    """N embeddings with metadata.

    Attributes:
      metadata: one row per embedding, columns of strings; what is missing is "".
      features: float32 (N, F).
      names: the F feature names.
    """

    metadata: pd.DataFrame
    features: Float32[np.ndarray, "rows features"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        rows, width = self.features.shape
        if len(self.metadata) != rows:
            raise InputError(
                f"the profiles have {rows} rows of features but {len(self.metadata)} of metadata; "
                "give one row of metadata per embedding."
            )
        if len(self.names) != width:
            raise InputError(f"{width} features need {width} names, not {len(self.names)}.")
        if not isinstance(self.metadata.index, pd.RangeIndex) or self.metadata.index.start != 0:
            object.__setattr__(self, "metadata", self.metadata.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.metadata)

    def __repr__(self) -> str:
        columns = ", ".join(str(name).removeprefix(METADATA) for name in self.metadata.columns)
        return f"Profiles({len(self):,} wells x {self.width:,} features; metadata: {columns})"

    def _repr_html_(self) -> str:
        rows: dict[str, object] = {"wells": f"{len(self):,}", "features": f"{self.width:,}"}
        for name in self.metadata.columns:
            values = self.metadata[name].unique()
            some = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
            rows[str(name)] = f"{len(values):,} values: {some}"
        return html_table("Profiles", rows)

    @property
    def width(self) -> int:
        """F, the number of features."""
        return int(self.features.shape[1])

    @staticmethod
    def read(
        path: str | os.PathLike[str],
        metadata: str | os.PathLike[str] | None = None,
        *,
        options: ReadOptions | None = None,
        notes: Callable[[str], None] | None = None,
    ) -> "Profiles":
        """Read profiles: an embeddings folder, parquet, CSV or TSV (.gz), AnnData or .npy.

        Columns named `Metadata_…` are metadata. Of the others, numeric columns are features,
        unless their names say that they describe the well (plate, row, dose, …); those and
        columns of text become metadata too, with the prefix `Metadata_`.

        Args:
          path: the folder or file.
          metadata: a second table with the metadata, row by row, where the first has features
            alone (EFAAR's way); the same as `options.metadata`.
          options: which columns are features, a second table and its key, and obsm.
          notes: called with one line that says which columns were taken and which left out.

        Raises:
          InputError: no such file, an unknown format, a damaged file, or no feature in it.
        """
        options = options or ReadOptions()
        if metadata is not None:
            options = replace(options, metadata=Path(metadata))
        return Profiles(*formats.read(Path(path), options, notes))

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write one file by its ending: .parquet, .csv, .tsv (both also .gz), .h5ad or .zarr.

        Raises:
          InputError: another ending.
        """
        return write_table(path, self.metadata, self.features, self.names)

    def take(self, rows: Bool[np.ndarray, " rows"] | Int[np.ndarray, " some"]) -> "Profiles":
        """The rows of a boolean mask or of row numbers, in that order."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            metadata=self.metadata.iloc[numbers].reset_index(drop=True),
            features=self.features[numbers],
        )

    def with_features(self, names: Collection[str]) -> "Profiles":
        """Only the features of the given names, in today's order."""
        numbers = [i for i, name in enumerate(self.names) if name in names]
        return replace(
            self,
            features=np.ascontiguousarray(self.features[:, numbers]),
            names=tuple(self.names[i] for i in numbers),
        )

    def blocks(self, rows: int = 8192) -> Iterator["Profiles"]:
        """The rows in order, at most `rows` at a time (views, not copies)."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield replace(self, metadata=self.metadata.iloc[part], features=self.features[part])

    def select(self, **metadata: str | Sequence[str]) -> "Profiles":
        """The rows whose metadata have the given values: `select(Plate="P1", Gene=["A", "B"])`.

        The prefix `Metadata_` may be left out.
        """
        keep = np.ones(len(self), bool)
        for name, wanted in metadata.items():
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            name = name if name in self.metadata.columns else METADATA + name
            keep &= self.column(name).isin(values).to_numpy()
        return self.take(keep)

    def column(self, name: str) -> "pd.Series[Any]":
        """One metadata column.

        Raises:
          InputError: it does not exist; the message names the nearest one that does.
        """
        return column(self.metadata, name)

    def controls(self, spec: str = ColumnSchema.controls) -> Bool[np.ndarray, " rows"]:
        """The mask of the negative controls, which `spec` (COLUMN=VALUE|VALUE) selects."""
        return control_mask(self.metadata, spec)

    def batches(self, batch: str, schema: ColumnSchema | None = None) -> np.ndarray:
        """The batch of every row: see `batch_labels`."""
        return batch_labels(self.metadata, batch, schema or ColumnSchema())

    def checked(
        self, *, nan: str = "error", duplicates: str = "error", schema: ColumnSchema | None = None
    ) -> "Profiles":
        """The profiles themselves, once their features are finite and no well comes twice.

        Args:
          nan: what to do about NaN and infinity: "error", "rows" (drop the rows) or "features"
            (drop the features).
          duplicates: what to do about wells that come twice: "error" or "first".
          schema: names the columns that make up a well.

        Raises:
          InputError: the first bad row and feature, or the first duplicate well, by name.
        """
        schema = schema or ColumnSchema()
        if not len(self):
            raise InputError("the profiles have no rows; check the file they came from.")
        result = self.finite(nan, schema)
        keys = [c for c in (schema.experiment, schema.plate, schema.well) if c in self.metadata]
        if schema.plate in keys and schema.well in keys:
            again = result.metadata.duplicated(keys).to_numpy()
            if again.any() and duplicates == "error":
                which = " ".join(map(str, result.metadata.loc[int(np.argmax(again)), keys]))
                raise InputError(
                    f"well {which} comes more than once ({int(again.sum())} surplus rows); keep "
                    "one row per well, or take the first of each with --duplicates first."
                )
            if again.any():
                result = result.take(~again)
        return result

    def finite(self, nan: str = "error", schema: ColumnSchema | None = None) -> "Profiles":
        """The profiles themselves if all features are finite, else as `checked` says."""
        schema = schema or ColumnSchema()
        # A row's sum is finite when all its values are (or so large that they must be wrong).
        with np.errstate(all="ignore"):
            bad_rows = ~np.isfinite(self.features.sum(axis=1, dtype=np.float64))
        if not bad_rows.any():
            return self
        bad = ~np.isfinite(self.features[bad_rows])
        if nan == "rows":
            kept = self.take(~bad_rows)
        elif nan == "features":
            keep = ~bad.any(axis=0)
            names = tuple(n for n, k in zip(self.names, keep, strict=True) if k)
            kept = replace(self, features=np.ascontiguousarray(self.features[:, keep]), names=names)
        else:
            row = int(np.flatnonzero(bad_rows)[0])
            keys = [c for c in (schema.plate, schema.well) if c in self.metadata]
            where = " ".join(map(str, self.metadata.loc[row, keys])) or f"row {row}"
            raise InputError(
                f"{where} has NaN or infinity in feature {self.names[int(np.argmax(bad[0]))]} "
                f"({int(bad_rows.sum())} rows and {int(bad.any(0).sum())} features are not "
                "finite); drop them with --nan rows or --nan features."
            )
        if not len(kept) or not kept.width:
            raise InputError(f"nothing is left without NaN or infinity (--nan {nan}).")
        return kept


def column(metadata: pd.DataFrame, name: str) -> "pd.Series[Any]":
    """One column of a metadata table, or an InputError that names the nearest one."""
    if name not in metadata.columns:
        known = [str(c) for c in metadata.columns]
        option = _OPTIONS_OF_COLUMNS.get(name)
        hint = f" (or name another one with {option})" if option else ""
        raise InputError(f"the profiles have no column '{name}': {nearest(name, known)}{hint}")
    return metadata[name]


# The options that name a column in place of the usual one.
_OPTIONS_OF_COLUMNS = {
    "Metadata_ControlType": "--controls COLUMN=VALUE",
    "Metadata_Experiment": "--experiment COLUMN",
    "Metadata_Plate": "--plate COLUMN",
    "Metadata_Well": "--well COLUMN",
    "Metadata_Perturbation": "--perturbation COLUMN",
}


def control_mask(metadata: pd.DataFrame, spec: str) -> Bool[np.ndarray, " rows"]:
    """Which rows are negative controls: `spec` is COLUMN=VALUE, or COLUMN=VALUE|VALUE.

    Raises:
      InputError: the column does not exist or no row has such a value.
    """
    if spec == "none":
        raise InputError(
            "negative controls are needed here, and --controls none says that there are none; "
            "name them with --controls COLUMN=VALUE, or fit on all wells with --fit-on all."
        )
    name, equals, values = spec.partition("=")
    if not equals:
        raise InputError(
            f"controls are given as COLUMN=VALUE, such as {ColumnSchema.controls}, not {spec}."
        )
    series = column(metadata, name)
    mask = series.isin(values.split("|")).to_numpy(dtype=bool)
    if not mask.any():
        some = ", ".join(repr(v) for v in series.value_counts().index[:5])
        raise InputError(
            f"no row is a negative control: column {name} has no value {values} (it has {some}); "
            "name the controls with --controls COLUMN=VALUE."
        )
    return mask


def batch_labels(metadata: pd.DataFrame, batch: str, schema: ColumnSchema) -> np.ndarray:
    """The batch of every row, as strings (N,).

    Args:
      metadata: the profiles' metadata.
      batch: "plate", "experiment", or the name of any metadata column. Plate names often come
        again in every experiment (RxRx1's `Plate1`), so a plate is known by its experiment too.
      schema: names the columns.
    """
    if batch == "plate":
        plate = column(metadata, schema.plate).to_numpy(dtype=object)
        if schema.experiment in metadata and schema.experiment != schema.plate:
            return np.asarray(metadata[schema.experiment].to_numpy(dtype=object) + "/" + plate)
        return plate
    name = schema.experiment if batch == "experiment" else batch
    return column(metadata, name).to_numpy(dtype=object)
