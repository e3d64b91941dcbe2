"""The units of packing: what is written together, under which names, and how it is checked."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError

LAYOUTS = ("zarr", "tiles")
SITES_PER_FILE = 16  # of tiles


@dataclass(frozen=True)
class PackSettings:
    """Layout and pixels of a store.

    Attributes:
      layout: 'zarr' (OME-Zarr 0.5 plates; crops anywhere) or 'tiles' (ArrayRecord; crops within
        tiles).
      channels: the channels to keep, in this order; empty for all.
      chunk: side of a Zarr chunk in pixels. 64 reads the fewest bytes; 128 makes a third fewer
        requests, which an object store answers sooner, for two fifths more bytes.
      tile: side of an ArrayRecord tile in pixels.
      uint8: scale 16 bits to 8, by plate and channel.
      percentiles: of the gray values that become 0 and 255.
      max_unreadable_fraction: fraction of unreadable sites above which packing stops.
    """

    layout: str = "zarr"
    channels: tuple[str, ...] = ()
    chunk: int = 64
    tile: int = 512
    uint8: bool = False
    percentiles: tuple[float, float] = (0.1, 99.9)
    max_unreadable_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise InputError(f"there is no layout '{self.layout}'; choose {' or '.join(LAYOUTS)}.")
        if min(self.chunk, self.tile) < 1:
            raise InputError("chunks and tiles need at least one pixel.")


@dataclass(frozen=True)
class Unit:
    """Sites that are written together.

    Attributes:
      name: of its marker.
      path: of its folder or file, relative to the store.
      plate: source, experiment and plate.
      rows: of the index.
    """

    name: str
    path: str
    plate: tuple[str, str, str]
    rows: tuple[int, ...]


def plan_units(index: Index, settings: PackSettings) -> list[Unit]:
    """The units of work, the same in every process."""
    units = []
    if settings.layout == "zarr":
        for (source, experiment, plate, well), rows in _groups(index, WELL).items():
            folder = f"plates/{safe_name(source)}/{safe_name(experiment)}/{safe_name(plate)}.zarr"
            letters = well.rstrip("0123456789")
            path = f"{folder}/{letters}/{int(well[len(letters) :])}"
            name = safe_name(f"{source}.{experiment}.{plate}.{well}")
            units.append(Unit(name, path, (source, experiment, plate), tuple(rows)))
        return units
    for (source, experiment, plate), rows in _groups(index, WELL[:3]).items():
        for start in range(0, len(rows), SITES_PER_FILE):
            name = safe_name(f"{source}.{experiment}.{plate}.{start // SITES_PER_FILE:05d}")
            of_file = tuple(rows[start : start + SITES_PER_FILE])
            path = f"tiles/{name}.array_record"
            units.append(Unit(name, path, (source, experiment, plate), of_file))
    return units


def _groups(index: Index, columns: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """The rows that share the values of some columns, in the order of the index."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(index.table[list(columns)].itertuples(index=False, name=None)):
        groups.setdefault(tuple(map(str, key)), []).append(row)
    return groups


def channels_of_unit(index: Index, unit: Unit, settings: PackSettings) -> tuple[str, ...]:
    """The channels to write: those of the settings, or of the unit's first site.

    Raises:
      InputError: the site lacks one.
    """
    names = index.sites[unit.rows[0]][0]
    if settings.channels:
        lacking = [c for c in settings.channels if c not in names]
        if lacking:
            raise InputError(f"{index.describe(unit.rows[0])} has no channel '{lacking[0]}'.")
        return settings.channels
    return names


def metadata_of(index: Index, row: int) -> dict[str, str]:
    """The metadata columns of a row."""
    site = index.table.iloc[row]
    return {str(c): str(v) for c, v in site.items() if str(c).startswith("Metadata_")}


def marker_path(store: Path, unit: Unit) -> Path:
    """The file that marks a unit as written."""
    return store / "done" / f"{unit.name}.json"


def safe_name(name: str) -> str:
    """`name` as a file name; where something had to be changed, made unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name) or "_"
    plain = "_" + plain[1:] if plain.startswith(".") else plain
    if plain == name and len(name) < 150:
        return plain
    return f"{plain[:120]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def digest(site: np.ndarray) -> str:
    """The SHA-256 of pixels, with their type and shape."""
    head = f"{site.dtype.str}{site.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(site).tobytes()).hexdigest()


def fingerprint(index: Index) -> str:
    """A hash of all that packing takes from an index."""
    state = hashlib.sha256()
    metadata = index.table[[c for c in index.table.columns if c.startswith("Metadata_")]]
    state.update(repr(list(metadata.columns)).encode())
    state.update(pd.util.hash_pandas_object(metadata, index=False).to_numpy().tobytes())
    for site in index.sites:
        state.update(repr(site).encode())
    return state.hexdigest()


def plain(settings: PackSettings) -> dict[str, Any]:
    """The settings as JSON values, as a store records them."""
    values = asdict(settings)
    values.pop("max_unreadable_fraction")  # no property of the store
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
