"""Embeddings of single cells as one table: AnnData with one row per cell."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.embeddings.crop_arrays import read_crops
from mae_jax.embeddings.manifest import read_manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.reader import WELL_COLUMNS, EmbeddingsReader
from mae_jax.embeddings.table_files import check_ending, write_table
from mae_jax.errors import InputError

CELL, CENTER_Y, CENTER_X = "Metadata_Cell", "Metadata_Cell_Y", "Metadata_Cell_X"


def write_cells(folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Path:
    """Write the embeddings of all cells of a folder as one file, one row per cell.

    Each row has its well's `Metadata_*`, its site, `Metadata_Cell` (its label, or its number in
    the site), and its center in pixels, `Metadata_Cell_Y` and `_X`.

    Args:
      folder: the embeddings folder of a job with cells.
      path: ends in .h5ad, .zarr, .parquet or .csv; None: `FOLDER_cells.h5ad` beside the folder.

    Raises:
      InputError: the job was run without cells, a file is damaged, or an unknown ending.
    """
    store = OutputStore(folder)
    manifest = read_manifest(store)
    if "cells" not in manifest.job:
        raise InputError(f"{os.fspath(folder)} has no cells; embed with --cells.")
    if path is None and store.local is None:
        raise InputError(f"{os.fspath(folder)} is a URL; name a local file for its cells.")
    path = check_ending(path or Path(f"{os.fspath(folder).rstrip('/')}_cells.h5ad"))
    names = EmbeddingsReader(folder).feature_names
    half = int(manifest.job["crop"]) // 2
    tables, features = [], [np.zeros((0, len(names)), np.float32)]
    for table, embeddings in read_crops(folder):
        cells = table.drop(columns=["y", "x", "label"])
        cells[CELL] = table["label"].astype(str)
        cells[CENTER_Y] = (table["y"] + half).astype(str)
        cells[CENTER_X] = (table["x"] + half).astype(str)
        tables.append(cells)
        features.append(embeddings)
    metadata = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[CELL])
    if not len(metadata):
        raise InputError(f"no well of {os.fspath(folder)} has a cell; check the source of cells.")
    rows = metadata[[*WELL_COLUMNS, "Metadata_Site", CELL]].agg("/".join, axis=1)
    return write_table(path, metadata, np.concatenate(features), names, rows.tolist())
