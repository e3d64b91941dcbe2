"""Packing a screen into a training store: any index in, an OME-Zarr or ArrayRecord store out.

The work is cut into units (a well, or a few sites), each written whole and then marked as done with
the checksums of its pixels. Any number of processes on any number of hosts can share the units
(`shard`), die and resume: marked units are not written twice. A lock keeps two processes from
packing the same shard. The process that sees all units marked reads the whole store back, compares
every checksum and writes the store's own index.

  <store>/pack.json          the settings
  <store>/ranges/            gray ranges of the plates, where 16 bits become 8
  <store>/plates/…/<plate>.zarr, or <store>/tiles/*.array_record
  <store>/done/              one marker per unit
  <store>/skipped.csv        sites that could not be read; deleting a unit's marker tries it again
  <store>/index.parquet      the finished store, as training and embedding read it
"""

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax import locks
from mae_jax.data.image_uri import is_url
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.pack_finish import finish
from mae_jax.data.pack_units import (
    PackSettings,
    Unit,
    channels_of_unit,
    digest,
    fingerprint,
    marker_path,
    metadata_of,
    plain,
    plan_units,
    safe_name,
)
from mae_jax.data.quantize import plate_ranges, to_uint8
from mae_jax.data.writers import write_ome_zarr_image, write_tiles
from mae_jax.errors import InputError
from mae_jax.files import read_json, writable, write_json

__all__ = ["PackSettings", "Progress", "pack", "plan_units"]


@dataclass(frozen=True)
class Progress:
    """Units done of all, and whether the store is finished."""

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
    """Writes this process's shard of the store, and finishes the store if nothing is left to do.

    Args:
      index: the screen; every process must be given the same.
      store: the folder to write, on a local or shared disk.
      settings: its layout and pixels.
      shard: (number, count): this process takes every count-th unit from that number on.
      threads: units worked on at once.
      progress: show a progress bar.

    Raises:
      InputError: the store was begun from another index or with other settings, too many sites
        cannot be read, a channel is lacking, a checksum differs in the end, the store cannot be
        written, or another process packs the same shard.
      MachineError: images are out of reach, or the disk is full.
    """
    if is_url(str(store)):
        raise InputError(
            f"{store} is a URL: pack to a local or mounted folder, then copy it there."
        )
    store = Path(store)
    number, count = shard
    if not 0 <= number < count:
        raise InputError(f"shard {number} of {count} does not exist; count from 0.")
    if threads < 1:
        raise InputError(f"{threads} threads cannot pack anything; give 1 or more.")
    units = plan_units(index, settings)
    with writable(store), contextlib.ExitStack() as stack:
        _begin(index, store, settings)
        stack.enter_context(locks.hold(store, f"shard-{number}-of-{count}"))
        pending = [u for u in units[number::count] if not marker_path(store, u).exists()]
        _work(index, store, settings, pending, threads, progress)
        done = sum(marker_path(store, unit).exists() for unit in units)
        if done < len(units):
            return Progress(done, len(units), False)
        try:
            stack.enter_context(locks.hold(store, "finish"))
        except InputError:  # the process of another shard finishes the store
            return Progress(done, len(units), False)
        skipped = finish(index, store, settings, units, threads, progress)
    return Progress(done, len(units), True, skipped)


def _begin(index: Index, store: Path, settings: PackSettings) -> None:
    record: dict[str, Any] = {"settings": plain(settings), "index": fingerprint(index)}
    path = store / "pack.json"
    if path.exists():
        begun = read_json(path)
        if begun != record:
            old, new = dict(begun).get("settings", {}), record["settings"]
            differ = [key for key in new if old.get(key) != new[key]]
            how = f"with another {', '.join(differ)}" if differ else "from another index"
            raise InputError(f"{store} was begun {how}; choose a new folder, or delete it.")
        return
    # Hidden files are partial ones of other processes, which may begin this store right now.
    occupied = store.exists() and any(not name.name.startswith(".") for name in store.iterdir())
    if occupied and not path.exists():
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
    channels = channels_of_unit(index, unit, settings)
    ranges = _ranges(index, store, settings, unit, channels) if settings.uint8 else None
    written: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    pixels: list[np.ndarray] = []
    for row in unit.rows:
        try:
            site = read_site(index, row, channels)
        except InputError as error:
            skipped.append({"row": row, "site": index.describe(row), "why": str(error)})
            continue
        if ranges is not None:
            site = to_uint8(site, channels, ranges)
        entry: dict[str, Any] = {"row": row, "sha256": digest(site)}
        if settings.layout == "zarr":
            entry["place"] = f"{unit.path}/{len(written)}"
            own: dict[str, Any] = {"metadata": metadata_of(index, row)}
            if ranges is not None:
                own["gray_range"] = ranges
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
        corners = write_tiles(store / unit.path, pixels, settings.tile)
        first = 0
        for entry, of_site, site in zip(written, corners, pixels, strict=True):
            side = settings.tile
            entry["tiles"] = [
                {"record": first + n, "top": y, "left": x,
                 "sha256": digest(site[:, y : y + side, x : x + side])}
                for n, (y, x) in enumerate(of_site)
            ]  # fmt: skip
            first += len(of_site)
    marker = {"channels": list(channels), "sites": written, "skipped": skipped}
    write_json(marker_path(store, unit), marker)
    return marker


def _ranges(
    index: Index,
    store: Path,
    settings: PackSettings,
    unit: Unit,
    channels: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """The plate's gray ranges, the same whichever process computes them first."""
    path = store / "ranges" / f"{safe_name('.'.join([*unit.plate, '+'.join(channels)]))}.json"
    if not path.exists():
        table = index.table
        of_plate = (
            (table["Metadata_Source"] == unit.plate[0])
            & (table["Metadata_Experiment"] == unit.plate[1])
            & (table["Metadata_Plate"] == unit.plate[2])
        )
        rows = [
            int(row)
            for row in np.flatnonzero(of_plate)
            if all(channel in index.sites[int(row)][0] for channel in channels)
        ]
        write_json(path, plate_ranges(index, rows, channels, settings.percentiles))
    return {name: (float(low), float(high)) for name, (low, high) in read_json(path).items()}
