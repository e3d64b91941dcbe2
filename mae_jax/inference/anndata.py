"""Embeddings as AnnData, for scanpy: one .h5ad file or one .zarr folder.

Written in AnnData's documented on-disk format (version 0.1.0) with h5py or zarr, so that neither
anndata nor the versions it asks for are needed to write what it reads.
"""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.data.index import WELL
from mae_jax.errors import InputError
from mae_jax.files import replacing
from mae_jax.inference.manifest import read_manifest
from mae_jax.inference.output_store import Store
from mae_jax.inference.parts import read_embeddings


def write_anndata(where: str | os.PathLike[str], kind: Literal["h5ad", "zarr"] = "h5ad") -> str:
    """Writes all wells of an embeddings folder as `embeddings.h5ad` or `embeddings.zarr` in it.

    X is float32, wells by features; obs holds the `Metadata_*` columns as categories, and its
    names are source, experiment, plate and well joined by "/"; uns["mae_jax"] holds encoder,
    model hash, preprocessing with the order of the channels, pooling and versions.

    Returns:
      The path of what was written.

    Raises:
      InputError: the folder is no embeddings folder or holds none yet, or a .zarr is asked for
        at a URL.
    """
    store = Store(where)
    manifest = read_manifest(store)
    metadata, features, names = read_embeddings(where)
    record = {**manifest.job, "versions": manifest.versions, "job_hash": manifest.hash}
    name = f"embeddings.{kind}"
    if kind == "h5ad":
        store.write(name, _h5ad(metadata, features, names, record))
        return store.path(name)
    if store.local is None:
        raise InputError(f"{where} is no local folder, where alone a .zarr is written; take h5ad.")
    with replacing(store.local / name) as beside:
        _zarr(beside, metadata, features, names, record)
    return store.path(name)


def _h5ad(
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "wells features"],
    names: list[str],
    record: dict[str, Any],
) -> bytes:
    import h5py

    def texts(group: Any, name: str, values: list[str] | str) -> Any:
        return group.create_dataset(name, data=values, dtype=h5py.string_dtype())

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_dataset(name, data=values)

    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        _write(file, metadata, features, names, record, texts, array)
    return sink.getvalue()


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
        made = group.create_array(name, shape=shape, dtype=str, chunks=shape)
        made[...] = np.asarray(values, dtype=object)
        return made

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_array(name, data=values)

    # Version 2 of Zarr, since version 3 has not settled how to store strings.
    root = zarr.open_group(path, mode="w", zarr_format=2)
    _write(root, metadata, features, names, record, texts, array)


def _write(
    root: Any,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "wells features"],
    names: list[str],
    record: dict[str, Any],
    texts: Callable[[Any, str, Any], Any],
    array: Callable[[Any, str, np.ndarray], Any],
) -> None:
    def marked(made: Any, kind: str, version: str = "0.2.0") -> Any:
        made.attrs["encoding-type"] = kind
        made.attrs["encoding-version"] = version
        return made

    def table(name: str, index: list[str], columns: pd.DataFrame) -> None:
        group = marked(root.create_group(name), "dataframe")
        group.attrs["_index"] = "_index"
        group.attrs["column-order"] = list(columns.columns)
        marked(texts(group, "_index", index), "string-array")
        for column in columns.columns:
            categories, codes = np.unique(columns[column].to_numpy(str), return_inverse=True)
            inner = marked(group.create_group(column), "categorical")
            inner.attrs["ordered"] = False
            marked(texts(inner, "categories", categories.tolist()), "string-array")
            marked(array(inner, "codes", codes.reshape(-1).astype(np.int32)), "array")

    marked(root, "anndata", "0.1.0")
    marked(array(root, "X", features), "array")
    wells = metadata[list(WELL)].agg("/".join, axis=1).tolist() if len(metadata) else []
    table("obs", wells, metadata)
    table("var", names, pd.DataFrame(index=names))
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        marked(root.create_group(name), "dict", "0.1.0")
    uns = marked(root.create_group("uns"), "dict", "0.1.0")
    ours = marked(uns.create_group("mae_jax"), "dict", "0.1.0")
    for key, value in record.items():
        text = value if isinstance(value, str) else json.dumps(value)
        marked(texts(ours, key, text), "string")
