"""The wells of a job in a fixed order, cut into shards whatever process does them.

Wells are in the order of the index and cut into shards of a fixed number of wells. The shard is
the unit of everything that must be certain: one file, done or not done; one task does it; batches
start anew at its first well. So whichever process does a shard, however often the job was killed
before, puts the same crops into the same batches and gets the same bits.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from mae_jax.config import nearest
from mae_jax.data.cells import CellSource
from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError


@dataclass(frozen=True)
class Well:
    """A well to embed: its number in the plan, its shard, its sites' index rows, its metadata."""

    number: int
    shard: int
    rows: tuple[int, ...]
    metadata: tuple[str, ...]

    def __str__(self) -> str:
        source, experiment, plate, well = self.metadata[: len(WELL)]
        return f"plate {plate}, well {well} ({'/'.join(n for n in (source, experiment) if n)})"


@dataclass(frozen=True, eq=False)
class EmbeddingPlan:
    """The wells of an index, cut into shards.

    Attributes:
      index: the index.
      columns: the `Metadata_*` columns that describe a well, the identifying ones first.
      table: one row per well with these columns, and `rows`.
      wells_per_shard: wells per shard (the last may have fewer).
      channels: channels to read from every site, or None for all that it has.
      assigned: the encoder's name of a channel -> the screen's, where someone has said so.
      matched: the encoder's name -> the screen's, of all channels that were recognized.
      cells: where the cells are, if crops are taken around them; None for crops that cover sites.
      crop: crop side in pixels, or None for that of the encoder's training.
    """

    index: Index
    columns: tuple[str, ...]
    table: pd.DataFrame
    wells_per_shard: int
    channels: tuple[str, ...] | None = None
    crop: int | None = None
    assigned: Mapping[str, str] = field(default_factory=dict)
    matched: Mapping[str, str] = field(default_factory=dict)
    cells: CellSource | None = None

    @property
    def num_wells(self) -> int:
        """The number of wells."""
        return len(self.table)

    @property
    def num_sites(self) -> int:
        """The number of sites."""
        return len(self.index)

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return -(-self.num_wells // self.wells_per_shard)

    def shard_size(self, shard: int) -> int:
        """The number of wells of one shard."""
        return min(self.wells_per_shard, self.num_wells - shard * self.wells_per_shard)

    def shard_wells(self, shard: int) -> list[Well]:
        """The wells of one shard."""
        start = shard * self.wells_per_shard
        rows = self.table.iloc[start : start + self.wells_per_shard]
        metadata = rows[list(self.columns)].astype(str).to_numpy()
        return [
            Well(start + i, shard, tuple(sites), tuple(values))
            for i, (sites, values) in enumerate(zip(rows["rows"], metadata, strict=True))
        ]

    def fingerprint(self) -> str:
        """A hash of all that the plan would read: wells, sites, channels and image URIs."""
        digest = hashlib.sha256()
        names = self.index.table[[*WELL, "Metadata_Site"]].astype(str).to_numpy()
        for site, (channels, images) in zip(names, self.index.sites, strict=True):
            digest.update(json.dumps([*site, channels, images]).encode())
        return digest.hexdigest()[:32]


def make_plan(
    index: Index,
    wells_per_shard: int = 64,
    channels: Sequence[str] | None = None,
    crop: int | None = None,
    cells: CellSource | None = None,
) -> EmbeddingPlan:
    """Plan the embedding of all wells of `index` in shards of `wells_per_shard`.

    Args:
      index: the index of the screen.
      wells_per_shard: wells per shard, which is what a killed process loses at most.
      channels: channels to read from every site, by name; None for all that each site has.
        "AGP=WGA" says that the encoder's AGP is the screen's WGA.
      crop: crop side in pixels; None for that of the encoder's training.
      cells: where the cells are, for one crop around each.

    Raises:
      InputError: the index has no wells, `wells_per_shard` or `crop` is not positive, or a channel
        is named that no site has.
    """
    if wells_per_shard < 1:
        raise InputError(f"a shard must have at least one well, not {wells_per_shard}.")
    if crop is not None and crop < 1:
        raise InputError(f"a crop must be at least 1 pixel wide, not {crop}.")
    if not len(index):
        raise InputError("the index has no sites; there is nothing to embed.")
    names, assigned = _named(index, channels or ())
    for name in names:
        if name not in index.channels:
            raise InputError(
                f"no site has the channel '{name}': {nearest(name, list(index.channels))}"
            )
    table = index.wells()
    others = [c for c in table.columns if c.startswith("Metadata_") and c not in WELL]
    table, others = _without_case_twins(table, others)
    chosen = tuple(names) if len(names) > len(assigned) else None
    columns = (*WELL, *others)
    return EmbeddingPlan(
        index, columns, table, wells_per_shard, chosen, crop, assigned, cells=cells
    )


def _named(index: Index, channels: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The screen's channels that are named, and which of them are given the encoder's names."""
    names, assigned = [], {}
    for text in channels:
        own, equals, name = text.partition("=")
        if equals and text not in index.channels:
            assigned[own] = name
        names.append(name if equals and text not in index.channels else text)
    return names, assigned


def _without_case_twins(table: pd.DataFrame, others: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """The table without columns that differ from an earlier one by case alone.

    `Metadata_plate` beside `Metadata_Plate` cannot be told apart by databases and file formats that
    ignore case: if it says the same it is left out, else it is called `Metadata_plate_2`.
    """
    taken = {name.casefold(): name for name in WELL}
    kept = []
    for name in others:
        twin = taken.get(name.casefold())
        if twin is not None:
            if (table[name].astype(str) == table[twin].astype(str)).all():
                continue
            number = next(n for n in itertools.count(2) if f"{name}_{n}".casefold() not in taken)
            table = table.rename(columns={name: f"{name}_{number}"})
            name = f"{name}_{number}"
        taken[name.casefold()] = name
        kept.append(name)
    return table, kept
