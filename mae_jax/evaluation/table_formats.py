"""The formats of the field as plain tables: embeddings folders, parquet, CSV, AnnData, .npy."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from mae_jax.config import nearest
from mae_jax.embeddings import is_embeddings_folder, read_embeddings
from mae_jax.embeddings.manifest import NAME as MANIFEST
from mae_jax.embeddings.table_files import PARQUET, TEXT
from mae_jax.errors import InputError
from mae_jax.evaluation.anndata_format import is_anndata, read_anndata
from mae_jax.evaluation.columns import METADATA, ColumnRoles, ReadOptions, column_roles

if TYPE_CHECKING:
    import pyarrow as pa


class Table(NamedTuple):
    """The contents of a file: metadata as strings, features (N, F) in float32, feature names."""

    metadata: pd.DataFrame
    features: np.ndarray
    names: tuple[str, ...]


def read(
    path: Path, options: ReadOptions | None = None, notes: Callable[[str], None] | None = None
) -> Table:
    """Read a profiles file or folder; see `Profiles.read`."""
    options = options or ReadOptions()
    if not path.exists():
        raise InputError(f"{path} does not exist; give an embeddings folder or a profiles file.")
    embeddings_folder = is_embeddings_folder(path)
    if options.obsm is not None and (embeddings_folder or not is_anndata(path)):
        raise InputError(f"{path} is not AnnData, which alone has obsm; leave out --obsm.")
    if embeddings_folder:
        table = _embeddings(path, options)
    elif is_anndata(path):
        table = _anndata(path, options)
    elif path.is_dir() or path.suffix in PARQUET:
        table, roles = _parquet(parquet_files(path), path, options)
        _note(notes, path, roles)
    elif path.name.endswith(TEXT):
        table, roles = _csv(path, options)
        _note(notes, path, roles)
    elif path.suffix == ".npy":
        table = _npy(path)
    else:
        raise InputError(
            f"{path} is no profiles file: give an embeddings folder, .parquet, .csv, .csv.gz, "
            ".tsv, .h5ad, an AnnData .zarr folder, or .npy with --metadata."
        )
    if options.metadata is not None:
        table = _with_metadata(table, path, Path(options.metadata), options.key)
    elif options.key:
        raise InputError("key columns join a second table; give it with --metadata.")
    elif path.suffix == ".npy":
        raise InputError(f"{path} holds numbers alone; give their metadata with --metadata.")
    return table


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder, sorted, or the file itself."""
    if not path.is_dir():
        return [path]
    # Hidden ones are still being written.
    files = sorted(p for p in path.glob("*.parquet") if not p.name.startswith("."))
    others = sorted(p.name for p in path.glob("*.csv*"))
    if not files and others:
        raise InputError(
            f"{path} holds tables of text ({others[0]}, …) and no Parquet file; give one of them, "
            "or join them into one table."
        )
    if not files:
        raise InputError(f"{path} has no Parquet file and no {MANIFEST}; embed first.")
    return files


def parquet_roles(schema: "pa.Schema", where: Path, options: ReadOptions) -> ColumnRoles:
    """The features and metadata among the columns of an Arrow schema."""
    import pyarrow as pa

    columns = {}
    for field in schema:
        if field.name.startswith("__index_level"):  # pandas' own
            continue
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
            columns[field.name] = "number"
        else:
            columns[field.name] = "other" if pa.types.is_nested(field.type) else "text"
    return column_roles(columns, where, options, need_metadata=options.metadata is None)


def strings(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with every value as a string, missing ones as ""."""
    return pd.DataFrame({str(c): _strings(frame[c]) for c in frame.columns}, index=frame.index)


def _strings(values: "pd.Series[Any]") -> "pd.Series[Any]":
    texts = [("" if v is None or v is pd.NA or v != v else _text(v)) for v in values.to_list()]
    return pd.Series(texts, index=values.index, dtype=object).astype("str")


def _text(value: Any) -> str:
    """A value as text; a whole number without decimals, as it was written before it was a float."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def arrow_block(batch: "pa.RecordBatch | pa.Table", roles: ColumnRoles) -> Table:
    """An Arrow record batch or table."""
    # By number: looking a column up by its name costs a pass over all names.
    numbers = {name: i for i, name in enumerate(batch.schema.names)}
    out = np.empty((batch.num_rows, len(roles.features)), np.float32)
    for i, name in enumerate(roles.features):
        out[:, i] = batch.column(numbers[name]).to_numpy(zero_copy_only=False)
    columns = {new: _texts(batch.column(numbers[old])) for old, new in roles.metadata.items()}
    frame = pd.DataFrame(columns) if columns else pd.DataFrame(index=range(batch.num_rows))
    return Table(strings(frame), out, tuple(roles.features))


def _texts(column: Any) -> "pd.Series[Any]":
    """A column for `strings`; whole numbers as text at once, since pandas makes nulls floats."""
    import pyarrow as pa

    if pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    series: pd.Series[Any] = column.to_pandas()
    return series


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises about a damaged file into one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # The parsers of foreign bytes raise errors of all kinds.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path} is not readable as {what} ({reason[:200]}); write it anew."
        ) from None


def _parquet(files: list[Path], where: Path, options: ReadOptions) -> tuple[Table, ColumnRoles]:
    import pyarrow.parquet as pq

    opened = []
    for path in files:
        with readable(path, "parquet"):
            # A file buffered ahead keeps all it has read: everything would be in memory twice.
            opened.append(pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True))
    with readable(files[0], "parquet"):
        roles = parquet_roles(opened[0].schema_arrow, where, options)
    columns = [*roles.metadata, *roles.features]
    total = sum(f.metadata.num_rows for f in opened)
    with readable(where, "parquet"):
        out = np.empty((total, len(roles.features)), np.float32)
    frames, rows = [], 0
    for path, file in zip(files, opened, strict=True):
        missing = [c for c in columns if c not in file.schema_arrow.names]
        if missing:
            raise InputError(f"{path} lacks column {missing[0]}, which {files[0].name} has.")
        end = rows + file.metadata.num_rows
        with readable(path, "parquet"):
            for batch in file.iter_batches(batch_size=16384, columns=columns):
                block = arrow_block(batch, roles)
                out[rows : rows + len(batch)] = block.features
                rows += len(batch)
                frames.append(block.metadata)
            if rows != end:
                raise ValueError(f"rows are missing: {end - rows}")
        file.close()
    empty = pd.DataFrame(columns=list(roles.metadata.values()))
    metadata = pd.concat(frames, ignore_index=True) if frames else empty
    return Table(metadata, out, tuple(roles.features)), roles


def _frame(path: Path) -> pd.DataFrame:
    """A parquet, CSV or TSV table with metadata columns as text."""
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    if path.suffix in PARQUET:
        with readable(path, "parquet"):
            return pd.read_parquet(path)
    separator = "\t" if ".tsv" in path.name or ".txt" in path.name else ","
    with readable(path, "a table"):
        names = pd.read_csv(path, sep=separator, nrows=0).columns
        types = {c: str for c in names if c.startswith(METADATA)}
        return pd.read_csv(path, sep=separator, dtype=types, keep_default_na=True, low_memory=False)


def _csv(path: Path, options: ReadOptions) -> tuple[Table, ColumnRoles]:
    frame = _frame(path)
    frame.columns = [str(c) for c in frame.columns]
    numeric = set(frame.select_dtypes("number").columns)
    columns = {c: "number" if c in numeric else "text" for c in frame.columns}
    roles = column_roles(columns, path, options, need_metadata=options.metadata is None)
    with readable(path, "a table"):
        features = np.ascontiguousarray(frame[roles.features].to_numpy(np.float32))
    metadata = strings(frame[list(roles.metadata)]).rename(columns=roles.metadata)
    return Table(metadata, features, tuple(roles.features)), roles


def _embeddings(path: Path, options: ReadOptions) -> Table:
    frame, features, names = read_embeddings(path, allow_incomplete=options.allow_incomplete)
    return _chosen(Table(strings(frame), features, tuple(names)), path, options)


def _anndata(path: Path, options: ReadOptions) -> Table:
    features, names, obs = read_anndata(path, options.obsm)
    frame = strings(obs)
    frame.columns = [_prefixed(str(c)) for c in frame.columns]
    return _chosen(Table(frame, features, names), path, options)


def _chosen(table: Table, path: Path, options: ReadOptions) -> Table:
    """The table with the features that `feature_columns` names, if it names any."""
    if not options.feature_columns:
        return table
    columns = dict.fromkeys(table.names, "number")
    roles = column_roles(columns, path, options, need_metadata=False)
    numbers = {name: i for i, name in enumerate(table.names)}
    features = table.features[:, [numbers[name] for name in roles.features]]
    return table._replace(features=np.ascontiguousarray(features), names=tuple(roles.features))


def _npy(path: Path) -> Table:
    with readable(path, "an array"):
        values = np.load(path, allow_pickle=False, mmap_mode="r")
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            raise ValueError(f"it has shape {values.shape} and type {values.dtype}, not (N, F)")
        features = np.ascontiguousarray(values, dtype=np.float32)
    names = tuple(f"feature_{i:04d}" for i in range(features.shape[1]))
    return Table(pd.DataFrame(index=range(len(features))), features, names)


def _with_metadata(table: Table, path: Path, metadata: Path, key: Sequence[str]) -> Table:
    second = strings(_frame(metadata))
    second.columns = [_prefixed(str(c)) for c in second.columns]
    if not key:
        if len(second) != len(table.features):
            raise InputError(
                f"{metadata} has {len(second)} rows, {path} has {len(table.features)}; they "
                "must match, or share a --key."
            )
        return table._replace(metadata=second)
    names = [_prefixed(name) for name in key]
    for name in names:
        for frame, file in ((table.metadata, path), (second, metadata)):
            if name not in frame:
                known = [str(c) for c in frame.columns]
                raise InputError(f"{file} has no column '{name}': {nearest(name, known)}")
    repeated = second.duplicated(names).to_numpy()
    if repeated.any():
        which = " ".join(map(str, second.loc[int(np.argmax(repeated)), names]))
        raise InputError(f"{metadata} has {which} more than once; {', '.join(names)} is no key.")
    new = second.drop(columns=[c for c in second if c in table.metadata and c not in names])
    joined = table.metadata.merge(new, on=names, how="left", indicator="_merge")
    absent = (joined.pop("_merge") == "left_only").to_numpy()
    if absent.any():
        which = " ".join(map(str, table.metadata.loc[int(np.argmax(absent)), names]))
        raise InputError(
            f"{metadata} lacks {which}, which {path} has ({int(absent.sum())} such rows)."
        )
    return table._replace(metadata=strings(joined))


def _prefixed(name: str) -> str:
    return name if name.startswith(METADATA) else METADATA + name


def _note(notes: Callable[[str], None] | None, path: Path, roles: ColumnRoles) -> None:
    if notes is not None:
        notes(f"{os.fspath(path)}: {roles.describe()}")
