"""Mixtures of screens: their channels, rows of a split, labels and plates as codes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from mae_jax.config import nearest
from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError


@dataclass(frozen=True)
class DatasetSpec:
    """One of several screens that are trained on together, each with channels of its own.

    Attributes:
      name: a unique name, which batches carry.
      index: its sites.
      channels: their names, in the order in which batches hold them; () for all of the index.
      weight: share of the training steps, relative to the other datasets; None for its number of
        sites.
    """

    name: str
    index: Index
    channels: tuple[str, ...] = ()
    weight: float | int | None = None


def datasets_by_channels(
    index: Index, channels: Sequence[str] = (), split: str | None = "train"
) -> list[DatasetSpec]:
    """One dataset for each combination of channels that the sites of an index have.

    Args:
      index: the index of a screen, or of several.
      channels: the channels to use; () for all. Their order holds in every dataset.
      split: combinations that no site of this split has are left out; None keeps all.

    Returns: the datasets, named by their channels ('DNA+ER+Mito'), the largest first.

    Raises:
      InputError: no site of the split has any of the channels.
    """
    wanted = channels or index.channels
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, (names, _) in enumerate(index.sites):
        present = tuple(name for name in wanted if name in names)
        if present:
            groups.setdefault(present, []).append(row)
    in_split = set(rows_of(index, split).tolist())
    groups = {names: rows for names, rows in groups.items() if not in_split.isdisjoint(rows)}
    if not groups:
        raise InputError(f"no site of the index has any of the channels {', '.join(wanted)}.")
    largest_first = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        DatasetSpec("+".join(names), Index(index.table.iloc[rows], index.root), names)
        for names, rows in largest_first
    ]


def resolve_channels(
    datasets: Sequence[DatasetSpec], split: str | None
) -> tuple[tuple[DatasetSpec, ...], list[Int[np.ndarray, " _"]]]:
    """The datasets with their channels spelled out, and the rows of the split in each.

    Raises:
      InputError: no datasets, two of one name, one without rows, or a channel that sites lack.
    """
    if not datasets or len({dataset.name for dataset in datasets}) != len(datasets):
        raise InputError("datasets need unique names, and there must be at least one.")
    rows = [rows_of(dataset.index, split) for dataset in datasets]
    resolved = tuple(
        dataclasses.replace(
            dataset, channels=channels_of(dataset.index, dataset_rows, dataset.channels)
        )
        for dataset, dataset_rows in zip(datasets, rows, strict=True)
    )
    return resolved, rows


def rows_of(index: Index, split: str | None) -> Int[np.ndarray, " rows"]:
    """Row numbers of the split, in the order of the index.

    Raises:
      InputError: there are none.
    """
    if split is None:
        return np.arange(len(index))
    rows = np.flatnonzero(index.table["Metadata_Split"].to_numpy() == split)
    if not len(rows):
        raise InputError(f"the index has no site in the split '{split}'; make it anew with one.")
    return rows


def channels_of(
    index: Index, rows: Sequence[int] | Int[np.ndarray, " rows"], channels: Sequence[str] | None
) -> tuple[str, ...]:
    """The requested channels, or all of the index, after a check that every row has them.

    Raises:
      InputError: a row lacks one; the message names the channels that all rows have.
    """
    names = tuple(channels) if channels else index.channels
    first_rows: dict[tuple[str, ...], int] = {}
    for row in rows:
        first_rows.setdefault(index.sites[int(row)][0], int(row))
    for present, row in first_rows.items():
        lacking = [name for name in names if name not in present]
        if lacking:
            shared = [c for c in index.channels if all(c in other for other in first_rows)]
            raise InputError(
                f"{index.describe(row)} lacks the channel '{lacking[0]}'; "
                f"all sites have {', '.join(shared) or 'no channel in common'}: "
                "name the channels to use."
            )
    return names


@dataclass(frozen=True)
class LabelEncoding:
    """Classes of sites as integer codes: the same over all datasets and in every split.

    Attributes:
      names: the classes, sorted; a site's code is an index into them.
      codes: for each dataset, the code of each row of its index.
    """

    names: tuple[str, ...]
    codes: tuple[Int[np.ndarray, " _"], ...]


def label_codes(
    datasets: Sequence[DatasetSpec], column: str = "Metadata_Perturbation"
) -> LabelEncoding:
    """Encodes the values of a metadata column, such as the perturbations to classify.

    Raises:
      InputError: a dataset's index has no such column (names its nearest neighbor).
    """
    values = []
    for dataset in datasets:
        table = dataset.index.table
        if column not in table.columns:
            known = [c for c in table.columns if c.startswith("Metadata_")]
            raise InputError(f"the index has no column '{column}': {nearest(column, known)}")
        values.append(table[column])
    return _encode(values)


def plate_codes(datasets: Sequence[DatasetSpec]) -> LabelEncoding:
    """Encodes the plates, named 'source/experiment/plate': the domains of batch effects."""
    source, experiment, plate = WELL[:3]
    tables = [dataset.index.table for dataset in datasets]
    return _encode([t[source] + "/" + t[experiment] + "/" + t[plate] for t in tables])


def _encode(values: Sequence[pd.Series]) -> LabelEncoding:
    codes, names = pd.factorize(np.concatenate([v.to_numpy(object) for v in values]), sort=True)
    ends = np.cumsum([len(v) for v in values])[:-1]
    return LabelEncoding(tuple(map(str, names)), tuple(np.split(codes.astype(np.int64), ends)))
