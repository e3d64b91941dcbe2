"""The files of an embeddings folder: parquet parts, and the report on wells not in them."""

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
from jaxtyping import Float

from mae_jax.data.index import WELL
from mae_jax.errors import InputError
from mae_jax.inference.manifest import read_manifest
from mae_jax.inference.output_store import Store

PARTS, SKIPPED = "parts", "skipped"
_JOB, _RUN = b"mae_jax.job", b"mae_jax.run"
_PART = re.compile(r"part-(\d+)\.(?:parquet|csv|zarr\.zip)")


def stem(part: int) -> str:
    """The name, without suffix, of the files of a part."""
    return f"part-{part:06d}"


def feature_names(width: int) -> list[str]:
    """`Image_MAE_0000`, …: names that pycytominer takes for features of images."""
    return [f"Image_MAE_{number:04d}" for number in range(width)]


@dataclass(frozen=True)
class Skipped:
    """A well that stands in no part: the values of its `Metadata_*` columns, and why."""

    metadata: tuple[str, ...]
    reason: str


def write_part(
    store: Store,
    part: int,
    *,
    job: str,
    run: dict[str, Any],
    columns: Sequence[str],
    metadata: Sequence[Sequence[str]],
    features: Float[np.ndarray, "wells features"],
    skipped: Sequence[Skipped],
) -> None:
    """Writes one finished part. Once its parquet file is there, the part is done.

    Args:
      store: the embeddings folder.
      part: the part's number.
      job: the hash of the job, by which a part that belongs to another is known.
      run: how the part was made (versions, batch, devices), and its counts.
      columns: the names of the `Metadata_*` columns.
      metadata: for each well the values of these.
      features: for each well its embedding.
      skipped: the part's wells that could not be embedded.
    """
    report = f"{SKIPPED}/{stem(part)}.csv"
    if skipped:
        store.write(report, _csv(columns, skipped))
    else:
        store.delete(report)  # of an earlier try at these wells
    arrays = [pa.array([row[i] for row in metadata], pa.string()) for i in range(len(columns))]
    arrays += [pa.array(column, pa.float32()) for column in np.ascontiguousarray(features.T)]
    names = [*columns, *feature_names(features.shape[1])]
    table = pa.Table.from_arrays(arrays, names=names)
    notes = {_JOB: job.encode(), _RUN: json.dumps(run).encode()}
    sink = io.BytesIO()
    # Floats of embeddings hardly repeat: a dictionary would only cost time.
    parquet.write_table(
        table.replace_schema_metadata(notes),
        sink,
        compression="zstd",
        use_dictionary=list(columns),
    )
    store.write(f"{PARTS}/{stem(part)}.parquet", sink.getvalue())


def finished(store: Store) -> set[int]:
    """The numbers of the parts that are done."""
    found = (_PART.fullmatch(name) for name in store.names(PARTS))
    return {int(match[1]) for match in found if match}


def reported(store: Store) -> set[int]:
    """The numbers of the parts with wells that were skipped."""
    found = (_PART.fullmatch(name) for name in store.names(SKIPPED))
    return {int(match[1]) for match in found if match}


def part_notes(store: Store, part: int) -> tuple[str, dict[str, Any]]:
    """The job hash of a finished part, and the record of how it was made."""
    name = f"{PARTS}/{stem(part)}.parquet"
    if store.local is not None:  # the last few bytes of the file hold it
        schema = parquet.read_schema(store.local / name)
    else:
        schema = parquet.read_schema(io.BytesIO(store.read(name)))
    notes = schema.metadata or {}
    if _JOB not in notes:
        raise InputError(f"{store.path(name)} is no part of an embedding job; remove it.")
    return notes[_JOB].decode(), json.loads(notes[_RUN])


def merge_skipped(store: Store, columns: Sequence[str]) -> None:
    """Writes `skipped.csv`, the report on all parts so far.

    Several shards may do so at once; the last one to look sees every report there is.
    """
    done: list[str] | None = None
    while (names := store.names(SKIPPED)) != done:
        found: list[Skipped] = []
        for name in names:
            rows = csv.reader(io.StringIO(store.read(f"{SKIPPED}/{name}").decode()))
            next(rows)
            found += [Skipped(tuple(row[:-1]), row[-1]) for row in rows]
        store.write("skipped.csv", _csv(columns, found))
        done = names


def _csv(columns: Sequence[str], skipped: Iterable[Skipped]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*columns, "Reason"])
    rows.writerows([*item.metadata, item.reason] for item in skipped)
    return text.getvalue().encode()


def read_embeddings(
    where: str | os.PathLike[str],
) -> tuple[pd.DataFrame, Float[np.ndarray, "wells features"], list[str]]:
    """All wells of an embeddings folder, in the order of the index.

    Returns:
      The `Metadata_*` columns as strings, the embeddings, and the features' names.

    Raises:
      InputError: the folder is none, is empty, or holds a part of another job or a well twice.
    """
    store = Store(where)
    job = read_manifest(store).hash
    tables = []
    for part in sorted(finished(store)):
        name = f"{PARTS}/{stem(part)}.parquet"
        table = parquet.read_table(pa.BufferReader(store.read(name)))
        if (table.schema.metadata or {}).get(_JOB, b"").decode() != job:
            raise InputError(f"{store.path(name)} belongs to another job; remove it and run again.")
        tables.append(table.replace_schema_metadata(None))
    tables = [table for table in tables if table.num_rows] or tables[:1]
    if not tables:
        raise InputError(f"{where} holds no finished part yet; run `mae-jax embed` again.")
    whole = pa.concat_tables(tables)
    columns = [name for name in whole.column_names if name.startswith("Metadata_")]
    names = [name for name in whole.column_names if not name.startswith("Metadata_")]
    metadata = pd.DataFrame({name: whole[name].to_pylist() for name in columns}, dtype="object")
    features = np.empty((len(metadata), len(names)), np.float32)
    for number, name in enumerate(names):
        features[:, number] = whole[name].to_numpy()
    double = metadata.duplicated(list(WELL))
    if double.any():
        first = metadata[double].iloc[0]
        raise InputError(
            f"{where} holds plate {first['Metadata_Plate']}, well {first['Metadata_Well']} twice."
        )
    return metadata, features, names
