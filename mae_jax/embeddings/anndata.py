"""Embeddings as AnnData, for scanpy: one .h5ad file or one .zarr folder.

Written in AnnData's documented on-disk format (version 0.1.0) with h5py or zarr, so that neither
anndata nor the versions it asks for are needed to write what it reads.
"""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.reader import WELL_COLUMNS, EmbeddingsReader
from mae_jax.errors import InputError
from mae_jax.files import replacing


def write_anndata(
    path: str | os.PathLike[str],
    format: Literal["h5ad", "zarr"] = "h5ad",
    *,
    allow_incomplete: bool = False,
) -> str:
    """Write all wells of an embeddings folder as `embeddings.h5ad` or `embeddings.zarr` in it.

    X is float32, wells by features; obs holds the `Metadata_*` columns as categories, and its
    names are source, experiment, plate and well joined by "/"; uns["mae_jax"] holds encoder,
    model hash, preprocessing with the order of the channels, pooling and versions.

    Returns:
      The path of the file or folder.

    Raises:
      InputError: as `read_embeddings`, or a .zarr is requested at a URL.
    """
    store = OutputStore(path)
    reader = EmbeddingsReader(path, allow_incomplete=allow_incomplete)
    metadata, features, names = reader.read()
    manifest = reader.manifest
    record = {**manifest.job, "versions": manifest.versions, "job_hash": manifest.job_hash}
    name = f"embeddings.{format}"
    if format == "h5ad":
        sink = io.BytesIO()
        write_h5ad(sink, metadata, features, names, _well_names(metadata), record)
        store.write(name, sink.getvalue())
        return store.full_path(name)
    if store.local is None:
        raise InputError(f"{path} is a URL, and .zarr is written to local folders only; use h5ad.")
    with replacing(store.local / name) as tmp_path:
        _zarr(tmp_path, metadata, features, names, record)
    return store.full_path(name)


def write_h5ad(
    target: str | os.PathLike[str] | io.BytesIO,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    rows: Sequence[str] | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a table of embeddings as an .h5ad file.

    Args:
      target: a path, or an open file.
      metadata: becomes obs, every column as categories of strings.
      features: becomes X.
      names: the names of the features.
      rows: the names of the rows; None: their numbers.
      record: becomes uns["mae_jax"], as JSON.
    """
    import h5py

    def texts(group: Any, name: str, values: list[str] | str) -> Any:
        return group.create_dataset(name, data=values, dtype=h5py.string_dtype())

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_dataset(name, data=values)

    rows = [str(i) for i in range(len(metadata))] if rows is None else list(rows)
    with h5py.File(target, "w") as file:
        _write(file, metadata, features, list(names), rows, record or {}, texts, array)


def _well_names(metadata: pd.DataFrame) -> list[str]:
    return metadata[list(WELL_COLUMNS)].agg("/".join, axis=1).tolist() if len(metadata) else []


def _zarr(
    path: Path,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "wells features"],
    names: list[str],
    record: dict[str, Any],
) -> None:
    import zarr

    def texts(group: Any, name: str, values: list[str] | str) -> Any:
        shape = () if isinstance(values, str) else (len(values),)
        array = group.create_array(name, shape=shape, dtype=str, chunks=shape)
        array[...] = np.asarray(values, dtype=object)
        return array

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_array(name, data=values)

    # Version 2 of Zarr, since version 3 has not settled how to store strings.
    root = zarr.open_group(path, mode="w", zarr_format=2)
    _write(root, metadata, features, names, _well_names(metadata), record, texts, array)


def _write(
    root: Any,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "wells features"],
    names: list[str],
    rows: list[str],
    record: Mapping[str, Any],
    texts: Callable[[Any, str, Any], Any],
    array: Callable[[Any, str, np.ndarray], Any],
) -> None:
    def encoded(node: Any, encoding: str, version: str = "0.2.0") -> Any:
        node.attrs["encoding-type"] = encoding
        node.attrs["encoding-version"] = version
        return node

    def table(name: str, index: list[str], columns: pd.DataFrame) -> None:
        group = encoded(root.create_group(name), "dataframe")
        group.attrs["_index"] = "_index"
        group.attrs["column-order"] = list(columns.columns)
        encoded(texts(group, "_index", index), "string-array")
        for column in columns.columns:
            categories, codes = np.unique(columns[column].to_numpy(str), return_inverse=True)
            inner = encoded(group.create_group(column), "categorical")
            inner.attrs["ordered"] = False
            encoded(texts(inner, "categories", categories.tolist()), "string-array")
            encoded(array(inner, "codes", codes.reshape(-1).astype(np.int32)), "array")

    encoded(root, "anndata", "0.1.0")
    encoded(array(root, "X", features), "array")
    table("obs", rows, metadata)
    table("var", names, pd.DataFrame(index=names))
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        encoded(root.create_group(name), "dict", "0.1.0")
    uns = encoded(root.create_group("uns"), "dict", "0.1.0")
    if record:
        own = encoded(uns.create_group("mae_jax"), "dict", "0.1.0")
        for key, value in record.items():
            text = value if isinstance(value, str) else json.dumps(value)
            encoded(texts(own, key, text), "string")
