"""Tables of metadata: CSV and TSV (also .gz), Parquet, and the Gallery's folders of platemaps."""

import os
import posixpath

import pandas as pd

from mae_jax.data.image_uri import is_url
from mae_jax.data.readers.loaddata import read_csv, read_parquet
from mae_jax.data.storage import exists
from mae_jax.errors import InputError, redact_credentials

_BARCODES = "barcode_platemap.csv"


def read_table(path: str) -> pd.DataFrame:
    """A table as strings, '' where a cell is empty.

    A folder with `barcode_platemap.csv` (Assay_Plate_Barcode, Plate_Map_Name) and `platemap/*.txt`
    is read as one table of the wells of all its plates.

    Raises:
      InputError: the file is missing, empty or no table.
    """
    if path.lower().endswith((".parquet", ".pq")):
        return read_parquet(path)
    if is_url(path) or not os.path.isdir(path):
        return read_csv(path)
    return _read_platemaps(path)


def _read_platemaps(folder: str) -> pd.DataFrame:
    shown = redact_credentials(folder)
    barcodes = read_csv(posixpath.join(folder, _BARCODES))
    names = {name.lower(): name for name in barcodes.columns}
    try:
        plates, maps = (names[name] for name in ("assay_plate_barcode", "plate_map_name"))
    except KeyError as error:
        raise InputError(f"{shown}/{_BARCODES} has no column {error.args[0]}; add it.") from None
    tables: dict[str, pd.DataFrame] = {}
    parts = []
    for plate, name in barcodes[[plates, maps]].itertuples(index=False, name=None):
        if name not in tables:
            tried = [
                posixpath.join(folder, inside, name + ending)
                for inside in ("platemap", "")
                for ending in (".txt", ".csv", ".tsv")
            ]
            path = next((path for path in tried if exists(path)), None)
            if path is None:
                raise InputError(
                    f"{shown} has no platemap {name} of plate {plate}: there is no {tried[0]}."
                )
            tables[name] = read_csv(path)
        parts.append(tables[name].assign(Metadata_Plate=plate))
    if not parts:
        raise InputError(f"{shown}/{_BARCODES} names no plates.")
    return pd.concat(parts, ignore_index=True).fillna("")
