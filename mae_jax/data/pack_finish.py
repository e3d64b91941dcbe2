"""Finishing a packed store: every checksum is compared, then the store's index is written."""

import csv
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.pack_units import PackSettings, Unit, digest, marker_path, metadata_of
from mae_jax.data.value_ranges import with_value_ranges
from mae_jax.data.writers import write_plate
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing


def finish(
    index: Index,
    store: Path,
    settings: PackSettings,
    units: Sequence[Unit],
    threads: int,
    progress: bool,
) -> int:
    """Reads the store back, compares every checksum and writes the store's index.

    Returns: the number of sites that were skipped because they could not be read.

    Raises:
      InputError: a checksum differs, or no site could be read.
    """
    from tqdm import tqdm

    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    plates: dict[str, tuple[str, dict[str, int]]] = {}
    for unit in units:
        marker = read_json(marker_path(store, unit))
        skipped.extend({**entry, "unit": unit.name} for entry in marker["skipped"])
        for entry in marker["sites"]:
            rows.extend(_rows_of(index, store, unit, entry, marker["channels"]))
        if settings.layout == "zarr" and marker["sites"]:
            folder, _, below = unit.path.partition(".zarr/")
            letters, column = below.split("/")
            wells = plates.setdefault(f"{folder}.zarr", (unit.plate[2], {}))[1]
            wells[f"{letters}{int(column):02d}"] = len(marker["sites"])
    if not rows:
        raise InputError(f"{store} would be empty: no site could be read.")
    sums = [row.pop("sha256") for row in rows]
    packed = Index(pd.DataFrame(rows), str(store))

    def checksum_error(row: int) -> str:
        try:
            return "" if digest(read_site(packed, row)) == sums[row] else "its checksum differs"
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        checked = pool.map(checksum_error, range(len(packed)))
        shown = tqdm(checked, "verifying", len(packed), disable=not progress)
        for row, problem in enumerate(shown):
            if problem:
                pool.shutdown(wait=True, cancel_futures=True)
                unit = next(u for u in units if rows[row]["unit"] == u.name)
                marker_path(store, unit).unlink()
                raise InputError(
                    f"{packed.image_uris(row)[0].path} is damaged ({problem}); its unit has been "
                    "unmarked: run the same command again to write it anew."
                )
    for folder, (name, wells) in plates.items():
        write_plate(store / folder, name, wells)
    with replacing(store / "skipped.csv") as tmp_path, tmp_path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "site", "why", "unit"])
        writer.writeheader()
        writer.writerows(skipped)
    index = Index(packed.table.drop(columns="unit"), str(store))
    with_value_ranges(index).write(store / "index.parquet")
    return len(skipped)


def _rows_of(
    index: Index, store: Path, unit: Unit, entry: Mapping[str, Any], channels: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of the store's index for one site of the source: one, or one per tile."""
    metadata = metadata_of(index, entry["row"])
    common = {**metadata, "Channels": list(channels), "unit": unit.name}
    if "tiles" not in entry:
        images = [f"{entry['place']}/0#index={c}" for c in range(len(channels))]
        metadata = read_json(store / entry["place"] / "0" / "zarr.json")
        row = {**common, "Images": images, "Zarr": json.dumps(metadata)}
        return [{**row, "sha256": entry["sha256"]}]
    return [
        {
            **common,
            "Metadata_Site": f"{metadata['Metadata_Site']}.{number}",
            "Metadata_Field": metadata["Metadata_Site"],
            "Metadata_TileTop": str(tile["top"]),
            "Metadata_TileLeft": str(tile["left"]),
            "Images": [
                f"{unit.path}#record={tile['record']}&channel={c}" for c in range(len(channels))
            ],
            "sha256": tile["sha256"],
        }
        for number, tile in enumerate(entry["tiles"])
    ]
