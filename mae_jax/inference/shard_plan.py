"""The plan of a job: every well in its place, in parts that do not depend on who does them.

The wells stand in the order of the index and are cut into parts of a fixed number of wells. The
part is the unit of everything that must be certain: it is one file, done or not done; it belongs
to one shard; and batches begin anew at its start. So whoever does a part, however often the job
was killed before, puts the same crops into the same batches and gets the same bits.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError


@dataclass(frozen=True)
class Well:
    """One well to embed: its place in the plan, the rows of its sites and what it is called."""

    number: int
    part: int
    rows: tuple[int, ...]
    metadata: tuple[str, ...]

    def __str__(self) -> str:
        source, experiment, plate, well = self.metadata[: len(WELL)]
        return f"plate {plate}, well {well} ({'/'.join(n for n in (source, experiment) if n)})"


@dataclass(frozen=True, eq=False)
class Plan:
    """The wells of an index, cut into parts.

    Attributes:
      index: the index.
      columns: the `Metadata_*` columns that describe a well, those that name it first.
      table: one row per well with these columns, and `rows`.
      part_wells: how many wells a part has (the last may have fewer).
      channels: the channels to read from every site, or None for all that it has.
      crop: the side of a crop in pixels, or None for that of the encoder's training.
    """

    index: Index
    columns: tuple[str, ...]
    table: pd.DataFrame
    part_wells: int
    channels: tuple[str, ...] | None = None
    crop: int | None = None

    @property
    def wells(self) -> int:
        """The number of wells."""
        return len(self.table)

    @property
    def sites(self) -> int:
        """The number of sites."""
        return len(self.index)

    @property
    def parts(self) -> int:
        """The number of parts."""
        return -(-self.wells // self.part_wells)

    def part(self, number: int) -> list[Well]:
        """The wells of one part."""
        start = number * self.part_wells
        piece = self.table.iloc[start : start + self.part_wells]
        texts = piece[list(self.columns)].astype(str).to_numpy()
        return [
            Well(start + i, number, tuple(rows), tuple(words))
            for i, (rows, words) in enumerate(zip(piece["rows"], texts, strict=True))
        ]

    def fingerprint(self) -> str:
        """A hash of all that the plan would read: wells, sites, channels and locators, in order."""
        digest = hashlib.sha256()
        table = self.index.table
        names = table[[*WELL, "Metadata_Site"]].astype(str).to_numpy()
        for words, (channels, images) in zip(names, self.index.sites, strict=True):
            digest.update(json.dumps([*words, channels, images]).encode())
        return digest.hexdigest()[:32]


def make_plan(
    index: Index,
    part_wells: int = 64,
    channels: Sequence[str] | None = None,
    crop: int | None = None,
) -> Plan:
    """The plan for embedding all wells of `index` in parts of `part_wells`.

    Args:
      index: the index of the screen.
      part_wells: wells a part, which is what is lost at most when a job is killed.
      channels: channels to read from every site, by name; None for all that each site has.
      crop: the side of a crop in pixels; None for that of the encoder's training.

    Raises:
      InputError: the index has no wells, `part_wells` or `crop` is not positive, or a channel is
        named that no site has.
    """
    if part_wells < 1:
        raise InputError(f"a part must have at least one well, not {part_wells}.")
    if crop is not None and crop < 1:
        raise InputError(f"a crop must be at least 1 pixel, not {crop}.")
    if not len(index):
        raise InputError("the index has no sites; there is nothing to embed.")
    for name in channels or ():
        if name not in index.channels:
            raise InputError(
                f"no site has the channel '{name}'; the index has {', '.join(index.channels)}."
            )
    table = index.wells()
    others = [c for c in table.columns if c.startswith("Metadata_") and c not in WELL]
    chosen = None if channels is None else tuple(channels)
    return Plan(index, (*WELL, *others), table, part_wells, chosen, crop)
