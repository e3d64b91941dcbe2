"""Tables of embeddings as one file: Parquet, CSV, TSV or AnnData, by the ending of its name."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
from jaxtyping import Float

from mae_jax.embeddings.anndata import write_anndata, write_h5ad, write_zarr
from mae_jax.embeddings.number_columns import number_type, typed
from mae_jax.embeddings.reader import read_embeddings
from mae_jax.errors import InputError
from mae_jax.files import replacing

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
ANNDATA = (".h5ad", ".zarr")
ENDINGS = (*PARQUET, *TEXT, *ANNDATA)


def check_ending(path: str | os.PathLike[str]) -> Path:
    """The path itself, if `write_table` knows its ending.

    Raises:
      InputError: another ending.
    """
    path = Path(path)
    if not path.name.endswith(ENDINGS):
        raise InputError(
            f"{path} has no known ending; write .parquet, .csv, .csv.gz, .tsv, .h5ad or .zarr."
        )
    return path


def write_table(
    path: str | os.PathLike[str],
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    rows: Sequence[str] | None = None,
) -> Path:
    """Write one file (or Zarr folder), whole or not at all, by its ending.

    Args:
      path: ends in one of `ENDINGS`.
      metadata: texts; columns of numbers are written as numbers, see `number_columns`.
      features: one row per row of `metadata`.
      names: of the features.
      rows: the names of the rows in AnnData; None: their numbers.

    Raises:
      InputError: another ending.
    """
    path = check_ending(path)
    if path.name.endswith(TEXT):
        table = pd.DataFrame(features, columns=list(names))
        frame = pd.concat([metadata.reset_index(drop=True), table], axis=1)
        separator = "\t" if ".tsv" in path.name else ","
        with replacing(path) as tmp_path:
            frame.to_csv(tmp_path, sep=separator, index=False)  # packed by its ending
    elif path.suffix == ".h5ad":
        with replacing(path) as tmp_path:
            write_h5ad(tmp_path, metadata, features, names, rows)
    elif path.suffix == ".zarr":
        write_zarr(path, metadata, features, names, rows)
    else:
        texts = {name: metadata[name].astype(object).tolist() for name in metadata.columns}
        columns = [typed(values, number_type(str(n), values)) for n, values in texts.items()]
        columns += [pa.array(np.ascontiguousarray(column)) for column in features.T]
        arrow = pa.Table.from_arrays(columns, names=[*map(str, texts), *names])
        with replacing(path) as tmp_path:
            parquet.write_table(
                arrow, tmp_path, compression="zstd", row_group_size=8192, write_page_checksum=True
            )
    return path


def split_ending(out: str) -> tuple[str, str | None]:
    """The embeddings folder of an output, and the file to write from it, if `out` is a file.

    `mine.h5ad` is written from the folder `mine` beside it, in which the job is resumed.
    """
    ending = next((end for end in sorted(ENDINGS, key=len, reverse=True) if out.endswith(end)), "")
    return (out.removesuffix(ending), out) if ending else (out, None)


def export_embeddings(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write all wells of an embeddings folder as one file, by its ending.

    Raises:
      InputError: as `read_embeddings`, another ending, or a URL.
    """
    if "://" in os.fspath(path):
        raise InputError(f"{path} is a URL; give a folder there, or a file on a local disk.")
    path = check_ending(path)
    if path.suffix == ".h5ad":
        return Path(write_anndata(folder, "h5ad", target=path))
    if path.suffix == ".zarr":
        return Path(write_anndata(folder, "zarr", target=path))
    return write_table(path, *read_embeddings(folder))
