"""Where a correction finds the wells that it is fitted on: in memory, streamed, or transformed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, UInt64

from mae_jax.evaluation.profiles import ColumnSchema, Profiles, control_mask

# Bytes of features that are held at a time when a statistic needs whole columns.
COLUMN_BYTES = 1 << 29


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
class Subset:
    """The rows of a source that a mask selects, as a source."""

    source: Source
    mask: Bool[np.ndarray, " rows"]

    @cached_property
    def metadata(self) -> pd.DataFrame:
        """One row per selected well."""
        return self.source.metadata[self.mask].reset_index(drop=True)

    @property
    def names(self) -> tuple[str, ...]:
        """The feature names."""
        return self.source.names

    def blocks(self) -> Iterator[Profiles]:
        """The selected rows, in order."""
        yield from _selected(self.source, self.mask)

    def take(self, rows: np.ndarray) -> Profiles:
        """Some of the selected rows, in memory."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
        return self.source.take(np.flatnonzero(self.mask)[numbers])


@dataclass(frozen=True)
class Transformed:
    """What a step of a correction makes of a source, computed block by block when it is read.

    Attributes:
      source: the wells before the step.
      names: the features after it.
      transform: the step.
    """

    source: Source
    names: tuple[str, ...]
    transform: Callable[[Profiles], Profiles]

    @property
    def metadata(self) -> pd.DataFrame:
        """That of the source."""
        return self.source.metadata

    def blocks(self) -> Iterator[Profiles]:
        """The transformed rows, in order."""
        for block in self.source.blocks():
            yield self.transform(block)

    def take(self, rows: np.ndarray) -> Profiles:
        """Some transformed rows, in memory."""
        return self.transform(self.source.take(rows))


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
    yield from _selected(source, reference_mask(source, fit_on, schema))


def _selected(source: Source, mask: Bool[np.ndarray, " rows"]) -> Iterator[Profiles]:
    start = 0
    for block in source.blocks():
        selected = mask[start : start + len(block)]
        start += len(block)
        if selected.any():
            yield block.take(selected)


def reference_columns(
    source: Source, fit_on: str, schema: ColumnSchema
) -> Iterator[tuple[slice, Float32[np.ndarray, "rows some"]]]:
    """All rows to fit on, some features at a time: which features, and their values.

    A stream is read once for every `COLUMN_BYTES` of features.
    """
    rows = int(reference_mask(source, fit_on, schema).sum())
    step = max(1, COLUMN_BYTES // max(4 * rows, 1))
    for start in range(0, len(source.names), step):
        part = slice(start, start + step)
        blocks = [b.features[:, part] for b in reference_rows(source, fit_on, schema)]
        yield part, np.concatenate(blocks)


def grouped(labels: np.ndarray) -> Iterator[tuple[str, Int[np.ndarray, " some"]]]:
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
