"""Packing a screen into a training store: any index in, an OME-Zarr or ArrayRecord store out.

The work is cut into units (a well, or a handful of sites), each written whole and then marked done
with the checksums of its pixels. Any number of processes on any number of hosts can share the units
(`shard`), die and begin again: what is marked is not done twice. The process that finds all units
marked reads the whole store back, compares every checksum and writes the store's own index.

  <store>/pack.json          the settings
  <store>/ranges/            grey ranges of the plates, where 16 bits become 8
  <store>/plates/…/<plate>.zarr, or <store>/tiles/*.array_record
  <store>/done/              one marker a unit
  <store>/skipped.csv        sites that could not be read; deleting a unit's marker tries it again
  <store>/index.parquet      the finished store, as training and embedding read it
"""

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mae_jax.data.image_uri import is_url
from mae_jax.data.images import read_site
from mae_jax.data.index import WELL, Index
from mae_jax.data.quantize import plate_ranges, to_uint8
from mae_jax.data.writers import write_ome_zarr_image, write_plate, write_tiles
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json

LAYOUTS = ("zarr", "tiles")
SITES_PER_FILE = 16  # of tiles


@dataclass(frozen=True)
class PackSettings:
    """What a store looks like.

    Attributes:
      layout: 'zarr' (OME-Zarr 0.5 plates; crops anywhere) or 'tiles' (ArrayRecord; crops within
        tiles).
      channels: the channels to keep, in this order; empty for all.
      chunk: side of a Zarr chunk in pixels. 64 reads the fewest bytes; 128 makes a third fewer
        requests, which an object store answers sooner, for two fifths more bytes.
      tile: side of an ArrayRecord tile in pixels.
      uint8: scale 16 bits to 8, by plate and channel.
      percentiles: of the grey values that become 0 and 255.
      max_unreadable_fraction: share of unreadable sites at which packing stops.
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
    """A share of the work: sites that are written together."""

    name: str  # of its marker
    place: str  # where it is written, below the store
    plate: tuple[str, str, str]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Progress:
    """How far the store is: units done of all, and whether it is finished."""

    done: int
    units: int
    finished: bool
    skipped: int = 0


def pack(
    index: Index,
    store: str | Path,
    settings: PackSettings,
    *,
    shard: tuple[int, int] = (0, 1),
    threads: int = 4,
    progress: bool = False,
) -> Progress:
    """Writes this process's share of the store, and finishes the store if nothing is left to do.

    Args:
      index: the screen; every process must be given the same.
      store: the folder to write, on a local or shared disk.
      settings: what it shall look like.
      shard: (number, count): this process takes every count-th unit from that number on.
      threads: units worked on at once.
      progress: show a progress bar.

    Raises:
      InputError: the store was begun from another index or with other settings, too many sites
        cannot be read, a channel is lacking, or a checksum does not hold in the end.
    """
    if is_url(str(store)):
        raise InputError(
            f"{store} is a URL: pack to a local or mounted folder, then copy it there."
        )
    store = Path(store)
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count} does not exist; count from 0.")
    _begin(index, store, settings)
    units = plan(index, settings)
    mine = [unit for unit in units[number::count] if not _marker(store, unit).exists()]
    _work(index, store, settings, mine, threads, progress)
    done = sum(_marker(store, unit).exists() for unit in units)
    if done < len(units):
        return Progress(done, len(units), False)
    skipped = _finish(index, store, settings, units, threads, progress)
    return Progress(done, len(units), True, skipped)


def plan(index: Index, settings: PackSettings) -> list[Unit]:
    """The units of work, the same in every process."""
    units = []
    if settings.layout == "zarr":
        for (source, experiment, plate, well), rows in _groups(index, WELL).items():
            folder = f"plates/{_safe(source)}/{_safe(experiment)}/{_safe(plate)}.zarr"
            letters = well.rstrip("0123456789")
            place = f"{folder}/{letters}/{int(well[len(letters) :])}"
            name = _safe(f"{source}.{experiment}.{plate}.{well}")
            units.append(Unit(name, place, (source, experiment, plate), tuple(rows)))
        return units
    for (source, experiment, plate), rows in _groups(index, WELL[:3]).items():
        for start in range(0, len(rows), SITES_PER_FILE):
            name = _safe(f"{source}.{experiment}.{plate}.{start // SITES_PER_FILE:05d}")
            part = tuple(rows[start : start + SITES_PER_FILE])
            place = f"tiles/{name}.array_record"
            units.append(Unit(name, place, (source, experiment, plate), part))
    return units


def _groups(index: Index, columns: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """The rows that share the values of some columns, in the order of the index."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(index.table[list(columns)].itertuples(index=False, name=None)):
        groups.setdefault(tuple(map(str, key)), []).append(row)
    return groups


def _begin(index: Index, store: Path, settings: PackSettings) -> None:
    record: dict[str, Any] = {"settings": _plain(settings), "index": _fingerprint(index)}
    path = store / "pack.json"
    if path.exists():
        begun = read_json(path)
        if begun != record:
            old, new = begun.get("settings", {}), record["settings"]
            differ = [key for key in new if old.get(key) != new[key]]
            what = f"with another {', '.join(differ)}" if differ else "from another index"
            raise InputError(f"{store} was begun {what}; choose a new folder, or delete it.")
        return
    # Hidden files are others' half-written ones: they may be beginning this store right now.
    strange = store.exists() and any(not name.name.startswith(".") for name in store.iterdir())
    if strange and not path.exists():
        raise InputError(f"{store} is not empty and no store; choose a new folder.")
    write_json(path, record)


def _work(
    index: Index,
    store: Path,
    settings: PackSettings,
    units: Sequence[Unit],
    threads: int,
    progress: bool,
) -> None:
    from tqdm import tqdm

    broken = sites = 0
    with ThreadPoolExecutor(threads) as pool:
        done = pool.map(lambda unit: _write_unit(index, store, settings, unit), units)
        for marker in tqdm(done, "packing", len(units), unit="unit", disable=not progress):
            broken += len(marker["skipped"])
            sites += len(marker["skipped"]) + len(marker["sites"])
            if broken > settings.max_unreadable_fraction * max(sites, min(1000, len(index))):
                pool.shutdown(wait=True, cancel_futures=True)
                raise InputError(
                    f"{broken} of {sites} sites could not be read, more than the share of "
                    f"{settings.max_unreadable_fraction:.1%} allowed; the last because: "
                    f"{marker['skipped'][-1]['why']}"
                )


def _write_unit(index: Index, store: Path, settings: PackSettings, unit: Unit) -> dict[str, Any]:
    """Writes the sites of a unit and its marker; returns the marker."""
    channels = _channels(index, unit, settings)
    ranges = _ranges(index, store, settings, unit, channels) if settings.uint8 else None
    written: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    pixels: list[np.ndarray] = []
    for row in unit.rows:
        try:
            site = read_site(index, row, channels)
        except InputError as problem:
            skipped.append({"row": row, "site": index.describe(row), "why": str(problem)})
            continue
        if ranges is not None:
            site = to_uint8(site, channels, ranges)
        entry: dict[str, Any] = {"row": row, "sha256": _digest(site)}
        if settings.layout == "zarr":
            entry["place"] = f"{unit.place}/{len(written)}"
            own: dict[str, Any] = {"metadata": _metadata(index, row)}
            if ranges is not None:
                own["grey_range"] = ranges
            folder = store / str(entry["place"])
            write_ome_zarr_image(folder, site, channels, settings.chunk, own)
        else:
            pixels.append(site)
        written.append(entry)
    if settings.layout == "tiles" and pixels:
        for site in pixels:
            if min(site.shape[1:]) < settings.tile:
                raise InputError(
                    f"a field of {site.shape[1]} × {site.shape[2]} pixels is smaller than a tile "
                    f"of {settings.tile}; choose smaller tiles."
                )
        corners = write_tiles(store / unit.place, pixels, settings.tile)
        first = 0
        for entry, of_site, site in zip(written, corners, pixels, strict=True):
            side = settings.tile
            entry["tiles"] = [
                {"record": first + n, "top": y, "left": x,
                 "sha256": _digest(site[:, y : y + side, x : x + side])}
                for n, (y, x) in enumerate(of_site)
            ]  # fmt: skip
            first += len(of_site)
    marker = {"channels": list(channels), "sites": written, "skipped": skipped}
    write_json(_marker(store, unit), marker)
    return marker


def _ranges(
    index: Index,
    store: Path,
    settings: PackSettings,
    unit: Unit,
    channels: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """The plate's grey ranges, reckoned by the first that needs them; all reckon the same."""
    path = store / "ranges" / f"{_safe('.'.join([*unit.plate, '+'.join(channels)]))}.json"
    if not path.exists():
        table = index.table
        here = (
            (table["Metadata_Source"] == unit.plate[0])
            & (table["Metadata_Experiment"] == unit.plate[1])
            & (table["Metadata_Plate"] == unit.plate[2])
        )
        rows = [
            int(row)
            for row in np.flatnonzero(here)
            if all(channel in index.sites[int(row)][0] for channel in channels)
        ]
        write_json(path, plate_ranges(index, rows, channels, settings.percentiles))
    return {name: (float(low), float(high)) for name, (low, high) in read_json(path).items()}


def _finish(
    index: Index,
    store: Path,
    settings: PackSettings,
    units: Sequence[Unit],
    threads: int,
    progress: bool,
) -> int:
    """Compares every checksum with what the store gives back, then writes the store's index."""
    from tqdm import tqdm

    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    plates: dict[str, tuple[str, dict[str, int]]] = {}
    for unit in units:
        marker = read_json(_marker(store, unit))
        skipped.extend({**entry, "unit": unit.name} for entry in marker["skipped"])
        for entry in marker["sites"]:
            rows.extend(_rows_of(index, store, unit, entry, marker["channels"]))
        if settings.layout == "zarr" and marker["sites"]:
            folder, _, inside = unit.place.partition(".zarr/")
            letters, column = inside.split("/")
            wells = plates.setdefault(f"{folder}.zarr", (unit.plate[2], {}))[1]
            wells[f"{letters}{int(column):02d}"] = len(marker["sites"])
    if not rows:
        raise InputError(f"{store} would be empty: no site could be read.")
    sums = [row.pop("sha256") for row in rows]
    packed = Index(pd.DataFrame(rows), str(store))

    def wrong(row: int) -> str:
        try:
            return "" if _digest(read_site(packed, row)) == sums[row] else "its checksum differs"
        except InputError as problem:
            return str(problem)

    with ThreadPoolExecutor(threads) as pool:
        checked = pool.map(wrong, range(len(packed)))
        for row, says in enumerate(tqdm(checked, "verifying", len(packed), disable=not progress)):
            if says:
                pool.shutdown(wait=True, cancel_futures=True)
                unit = next(u for u in units if rows[row]["unit"] == u.name)
                _marker(store, unit).unlink()
                raise InputError(
                    f"{packed.image_uris(row)[0].path} is damaged ({says}); its unit has been "
                    "unmarked: run the same command again to write it anew."
                )
    for folder, (name, wells) in plates.items():
        write_plate(store / folder, name, wells)
    with replacing(store / "skipped.csv") as beside, beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "site", "why", "unit"])
        writer.writeheader()
        writer.writerows(skipped)
    Index(packed.table.drop(columns="unit"), str(store)).write(store / "index.parquet")
    return len(skipped)


def _rows_of(
    index: Index, store: Path, unit: Unit, entry: Mapping[str, Any], channels: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of the store's index for one site of the source: one, or one a tile."""
    metadata = _metadata(index, entry["row"])
    common = {**metadata, "Channels": list(channels), "unit": unit.name}
    if "tiles" not in entry:
        images = [f"{entry['place']}/0#index={c}" for c in range(len(channels))]
        metadata = read_json(store / entry["place"] / "0" / "zarr.json")
        found = {**common, "Images": images, "Zarr": json.dumps(metadata)}
        return [{**found, "sha256": entry["sha256"]}]
    return [
        {
            **common,
            "Metadata_Site": f"{metadata['Metadata_Site']}.{number}",
            "Metadata_Field": metadata["Metadata_Site"],
            "Metadata_TileTop": str(tile["top"]),
            "Metadata_TileLeft": str(tile["left"]),
            "Images": [
                f"{unit.place}#record={tile['record']}&channel={c}" for c in range(len(channels))
            ],
            "sha256": tile["sha256"],
        }
        for number, tile in enumerate(entry["tiles"])
    ]


def _metadata(index: Index, row: int) -> dict[str, str]:
    site = index.table.iloc[row]
    return {str(c): str(v) for c, v in site.items() if str(c).startswith("Metadata_")}


def _channels(index: Index, unit: Unit, settings: PackSettings) -> tuple[str, ...]:
    names = index.sites[unit.rows[0]][0]
    if settings.channels:
        lacking = [c for c in settings.channels if c not in names]
        if lacking:
            raise InputError(f"{index.describe(unit.rows[0])} has no channel '{lacking[0]}'.")
        return settings.channels
    return names


def _marker(store: Path, unit: Unit) -> Path:
    return store / "done" / f"{unit.name}.json"


def _safe(name: str) -> str:
    """`name` as a file name; where something had to be changed, made unique by a hash."""
    plain = re.sub(r"[^A-Za-z0-9._+-]", "_", name) or "_"
    plain = "_" + plain[1:] if plain.startswith(".") else plain
    if plain == name and len(name) < 150:
        return plain
    return f"{plain[:120]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _digest(site: np.ndarray) -> str:
    head = f"{site.dtype.str}{site.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(site).tobytes()).hexdigest()


def _fingerprint(index: Index) -> str:
    found = hashlib.sha256()
    metadata = index.table[[c for c in index.table.columns if c.startswith("Metadata_")]]
    found.update(repr(list(metadata.columns)).encode())
    found.update(pd.util.hash_pandas_object(metadata, index=False).to_numpy().tobytes())
    for site in index.sites:
        found.update(repr(site).encode())
    return found.hexdigest()


def _plain(settings: PackSettings) -> dict[str, Any]:
    values = asdict(settings)
    values.pop("max_unreadable_fraction")  # how much damage is borne is no property of the store
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
