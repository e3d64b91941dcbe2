"""What a run trains on: screens with channels of their own, their rows, labels and domains."""

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
class CropSet:
    """One of several screens that are trained on together, each with channels of its own.

    Attributes:
      name: tells it from the others; batches carry it.
      index: its sites.
      channels: their names, in the order in which batches hold them; () for all of the index.
      share: of the steps; None for its number of sites.
    """

    name: str
    index: Index
    channels: tuple[str, ...] = ()
    share: float | int | None = None


def sets_by_channels(
    index: Index, channels: Sequence[str] = (), split: str | None = "train"
) -> list[CropSet]:
    """One set for each combination of channels that the sites of an index have.

    Args:
      index: the index of a screen, or of several.
      channels: the channels to use; () for all. Their order holds in every set.
      split: combinations that no site of this split has make no set; None keeps all.

    Returns: the sets, named by their channels ('DNA+ER+Mito'), the largest first.

    Raises:
      InputError: no site of the split has any of the channels.
    """
    wanted = channels or index.channels
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, (names, _) in enumerate(index.sites):
        have = tuple(name for name in wanted if name in names)
        if have:
            groups.setdefault(have, []).append(row)
    wished = set(rows_of(index, split).tolist())
    groups = {names: rows for names, rows in groups.items() if not wished.isdisjoint(rows)}
    if not groups:
        raise InputError(f"no site to use has any of the channels {', '.join(wanted)}.")
    found = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        CropSet("+".join(names), Index(index.table.iloc[rows], index.root), names)
        for names, rows in found
    ]


def resolved(
    sets: Sequence[CropSet], split: str | None
) -> tuple[tuple[CropSet, ...], list[Int[np.ndarray, " _"]]]:
    """The sets with their channels spelled out, and the rows of the split in each.

    Raises:
      InputError: no sets, two of one name, one without rows, or a channel that sites lack.
    """
    if not sets or len({one.name for one in sets}) != len(sets):
        raise InputError("sets that are mixed need names of their own, and there must be one.")
    rows = [rows_of(one.index, split) for one in sets]
    named = tuple(
        dataclasses.replace(one, channels=channels_of(one.index, of_set, one.channels))
        for one, of_set in zip(sets, rows, strict=True)
    )
    return named, rows


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
    """The channels asked for, or all of the index, after a check that every row has them.

    Raises:
      InputError: a row lacks one; the message says what to ask for instead.
    """
    names = tuple(channels) if channels else index.channels
    sets: dict[tuple[str, ...], int] = {}
    for row in rows:
        sets.setdefault(index.sites[int(row)][0], int(row))
    for have, row in sets.items():
        lacking = [name for name in names if name not in have]
        if lacking:
            shared = [c for c in index.channels if all(c in other for other in sets)]
            raise InputError(
                f"{index.describe(row)} lacks the channel '{lacking[0]}'; "
                f"all sites have {', '.join(shared) or 'no channel in common'}: "
                "name the channels to use."
            )
    return names


@dataclass(frozen=True)
class Numbering:
    """Classes of sites, numbered: the same over all sets and in every split.

    Attributes:
      names: the classes, sorted; a site's number is a place in them.
      numbers: for each set, the number of each row of its index.
    """

    names: tuple[str, ...]
    numbers: tuple[Int[np.ndarray, " _"], ...]


def labels_of(sets: Sequence[CropSet], column: str = "Metadata_Perturbation") -> Numbering:
    """The values of a metadata column as classes, such as perturbations to recognise.

    Raises:
      InputError: a set's index has no such column (names its nearest neighbour).
    """
    values = []
    for one in sets:
        if column not in one.index.table.columns:
            known = [c for c in one.index.table.columns if c.startswith("Metadata_")]
            raise InputError(f"the index has no column '{column}': {nearest(column, known)}")
        values.append(one.index.table[column])
    return _numbered(values)


def domains_of(sets: Sequence[CropSet]) -> Numbering:
    """Plates as classes, named 'source/experiment/plate': what batch effects are shared within."""
    source, experiment, plate = WELL[:3]
    tables = [one.index.table for one in sets]
    return _numbered([t[source] + "/" + t[experiment] + "/" + t[plate] for t in tables])


def _numbered(values: Sequence[pd.Series]) -> Numbering:
    numbers, names = pd.factorize(np.concatenate([v.to_numpy(object) for v in values]), sort=True)
    ends = np.cumsum([len(v) for v in values])[:-1]
    return Numbering(tuple(map(str, names)), tuple(np.split(numbers.astype(np.int64), ends)))
