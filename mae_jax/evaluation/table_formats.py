"""The formats of the field as plain tables: embeddings folders, parquet, CSV, AnnData."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mae_jax.embeddings import is_embeddings_folder, read_embeddings
from mae_jax.embeddings.manifest import NAME as MANIFEST
from mae_jax.errors import InputError

METADATA = "Metadata_"  # what the names of metadata columns begin with


class Table(NamedTuple):
    """What a file holds: metadata as strings, features (N, F) in float32, the features' names."""

    metadata: pd.DataFrame
    features: np.ndarray
    names: tuple[str, ...]


def read(path: Path, metadata: Path | None = None) -> Table:
    """Reads a profiles file or folder; see `Profiles.read`."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give an embeddings folder or a profiles file.")
    table: Table
    if is_embeddings_folder(path):
        frame, features, names = read_embeddings(path)
        table = Table(strings(frame), features, tuple(names))
    elif path.is_dir() or path.suffix in (".parquet", ".pq"):
        table = _parquet(parquet_files(path), path, need_metadata=metadata is None)
    elif path.name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        table = _csv(path, need_metadata=metadata is None)
    elif path.suffix == ".h5ad":
        table = _h5ad(path)
    else:
        raise InputError(
            f"{path} is no profiles file: give an embeddings folder, .parquet, .csv, .csv.gz, "
            ".tsv or .h5ad."
        )
    if metadata is not None:
        beside = strings(_frame(metadata))
        if len(beside) != len(table.features):
            raise InputError(
                f"{metadata} has {len(beside)} rows, {path} has {len(table.features)}; they "
                "must match."
            )
        beside.columns = [c if c.startswith(METADATA) else METADATA + c for c in beside.columns]
        table = table._replace(metadata=beside)
    return table


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, sorted, or the file itself."""
    if not path.is_dir():
        return [path]
    # Hidden ones are still being written.
    files = sorted(p for p in path.glob("*.parquet") if not p.name.startswith("."))
    if not files:
        raise InputError(f"{path} has no Parquet file and no {MANIFEST}; embed first.")
    return files


def split_columns(
    schema: Any, where: Path, need_metadata: bool = True
) -> tuple[list[str], list[str]]:
    """The metadata and feature columns of an Arrow schema."""
    import pyarrow as pa

    meta, features = [], []
    for field in schema:
        if field.name.startswith(METADATA):
            meta.append(field.name)
        elif field.name.startswith("__index_level"):  # pandas' own
            continue
        elif pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
            features.append(field.name)
    if not features:
        raise InputError(f"{where} has no numeric feature column beside {METADATA}….")
    if not meta and need_metadata:
        raise InputError(f"{where} has no column named {METADATA}…; give the metadata beside it.")
    return meta, features


def strings(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with every value as a string, missing ones as ""."""
    return pd.DataFrame({str(c): _strings(frame[c]) for c in frame.columns}, index=frame.index)


def _strings(values: "pd.Series[Any]") -> "pd.Series[Any]":
    found = [("" if v is None or v is pd.NA or v != v else str(v)) for v in values.to_list()]
    return pd.Series(found, index=values.index, dtype=object).astype("str")


def arrow_block(table: Any, meta: Sequence[str], features: Sequence[str]) -> Table:
    """An Arrow table or record batch."""
    out = np.empty((table.num_rows, len(features)), np.float32)
    for i, name in enumerate(features):
        out[:, i] = table.column(name).to_numpy(**_copy(table))
    frame = pd.DataFrame({c: table.column(c).to_pandas() for c in meta})
    if not meta:
        frame = pd.DataFrame(index=range(table.num_rows))
    return Table(strings(frame), out, tuple(features))


def _copy(table: Any) -> dict[str, bool]:
    import pyarrow as pa

    return {} if isinstance(table, pa.Table) else {"zero_copy_only": False}


def _parquet(files: list[Path], where: Path, need_metadata: bool) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # A file that is buffered ahead keeps all it has read: everything would be in memory twice.
        opened = [pq.ParquetFile(f, pre_buffer=False) for f in files]
    except (pa.ArrowInvalid, OSError) as problem:
        raise InputError(
            f"{where} is not readable as parquet ({problem}); write it anew."
        ) from None
    meta, features = split_columns(opened[0].schema_arrow, where, need_metadata)
    rows = sum(f.metadata.num_rows for f in opened)
    out = np.empty((rows, len(features)), np.float32)
    frames, at = [], 0
    for path, file in zip(files, opened, strict=True):
        missing = [c for c in [*meta, *features] if c not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{path} lacks column {missing[0]}, which {files[0].name} has.")
        for batch in file.iter_batches(batch_size=16384, columns=[*meta, *features]):
            block = arrow_block(batch, meta, features)
            out[at : at + len(batch)] = block.features
            at += len(batch)
            frames.append(block.metadata)
        file.close()
    metadata = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=meta)
    return Table(metadata, out, tuple(features))


def _frame(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    if path.suffix in (".parquet", ".pq"):
        return pd.read_parquet(path)
    separator = "\t" if ".tsv" in path.name or ".txt" in path.name else ","
    try:
        names = pd.read_csv(path, sep=separator, nrows=0).columns
        kinds = {c: str for c in names if c.startswith(METADATA)}
        return pd.read_csv(path, sep=separator, dtype=kinds, keep_default_na=True, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as problem:
        raise InputError(f"{path} is not a readable table ({problem}).") from None


def _csv(path: Path, need_metadata: bool) -> Table:
    frame = _frame(path)
    meta = [c for c in frame.columns if c.startswith(METADATA)]
    numeric = frame.drop(columns=meta).select_dtypes("number")
    if numeric.shape[1] == 0:
        raise InputError(f"{path} has no numeric feature column beside {METADATA}….")
    if not meta and need_metadata:
        raise InputError(f"{path} has no column named {METADATA}…; give the metadata beside it.")
    features = np.ascontiguousarray(numeric.to_numpy(np.float32))
    return Table(strings(frame[meta]), features, tuple(map(str, numeric.columns)))


def _h5ad(path: Path) -> Table:
    """AnnData: X (dense or CSR) are the features, obs the metadata, var's index the names."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as problem:
        raise InputError(f"{path} is not readable as .h5ad ({problem}).") from None
    with file:
        if "X" not in file or "obs" not in file:
            raise InputError(f"{path} has no X and obs, which AnnData files have.")
        x = file["X"]
        if isinstance(x, h5py.Dataset):
            features = np.ascontiguousarray(x[()], dtype=np.float32)
        else:
            import scipy.sparse

            kind = x.attrs.get("encoding-type", "csr_matrix")
            build = scipy.sparse.csc_matrix if kind == "csc_matrix" else scipy.sparse.csr_matrix
            parts = (x["data"][()], x["indices"][()], x["indptr"][()])
            features = build(parts, shape=tuple(x.attrs["shape"])).toarray().astype(np.float32)
        obs = {name: _h5ad_column(file["obs"], name) for name in _h5ad_columns(file["obs"])}
        frame = strings(pd.DataFrame(obs, index=range(len(features))))
        names = _h5ad_index(file["var"], features.shape[1])
    frame.columns = [c if c.startswith(METADATA) else METADATA + c for c in frame.columns]
    return Table(frame, features, tuple(names))


def _h5ad_columns(group: Any) -> list[str]:
    order = group.attrs.get("column-order")
    if order is not None:
        return [c.decode() if isinstance(c, bytes) else str(c) for c in order]
    index = group.attrs.get("_index", "_index")
    return [c for c in group if c not in (index, "__categories")]


def _h5ad_column(group: Any, name: str) -> list[Any]:
    entry = group[name]
    if "categories" in entry:  # a categorical: codes into categories, -1 where missing
        categories = _decoded(entry["categories"][()])
        return [categories[c] if c >= 0 else None for c in entry["codes"][()]]
    if "values" in entry:  # a nullable array
        values, mask = _decoded(entry["values"][()]), entry["mask"][()]
        return [None if m else v for v, m in zip(values, mask, strict=True)]
    return _decoded(entry[()])


def _h5ad_index(group: Any, width: int) -> list[str]:
    name = group.attrs.get("_index", "_index")
    name = name.decode() if isinstance(name, bytes) else str(name)
    return (
        [str(v) for v in _h5ad_column(group, name)]
        if name in group
        else [f"feature_{i}" for i in range(width)]
    )


def _decoded(values: np.ndarray) -> list[Any]:
    return [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
