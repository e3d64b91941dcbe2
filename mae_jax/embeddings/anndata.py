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

from mae_jax.embeddings.manifest import Manifest
from mae_jax.embeddings.number_columns import typed_frame
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.reader import WELL_COLUMNS, EmbeddingsReader
from mae_jax.errors import InputError
from mae_jax.files import replacing


def write_anndata(
    path: str | os.PathLike[str],
    format: Literal["h5ad", "zarr"] = "h5ad",
    *,
    target: str | os.PathLike[str] | None = None,
    allow_incomplete: bool = False,
) -> str:
    """Write all wells of an embeddings folder as one AnnData file or Zarr folder.

    X is float32, wells by features; obs holds the `Metadata_*` columns, numbers as numbers and
    texts as categories, and its names are source, experiment, plate and well joined by "/"; var
    says the channel of features that have one; uns["mae_jax"] holds encoder, model hash,
    preprocessing with the order of the channels, pooling and versions, and the further entries of
    uns are those that cp-anndata-validator reads.

    Args:
      path: the embeddings folder or URL.
      format: "h5ad" or "zarr".
      target: the file or folder to write; None: `_embeddings.h5ad` or `.zarr` in the folder.
      allow_incomplete: write the shards that are done so far.

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
    uns = {"mae_jax": record, **_provenance(manifest, metadata)}
    rows, name = _well_names(metadata), f"_embeddings.{format}"
    if format == "zarr":
        if target is None and store.local is None:
            raise InputError(
                f"{path} is a URL, and .zarr is written to local folders only; use h5ad."
            )
        local = Path(target) if target is not None else Path(store.full_path(name))
        write_zarr(local, metadata, features, names, rows, uns)
        return str(local)
    if target is not None:
        with replacing(target) as tmp_path:
            write_h5ad(tmp_path, metadata, features, names, rows, uns)
        return os.fspath(target)
    sink = io.BytesIO()
    write_h5ad(sink, metadata, features, names, rows, uns)
    store.write(name, sink.getvalue())
    return store.full_path(name)


def _provenance(manifest: Manifest, metadata: pd.DataFrame) -> dict[str, Any]:
    """What cp-anndata-validator asks of uns, as far as a job knows it."""
    job = manifest.job
    return {
        "schema_id": "generic-cell-painting",
        "schema_version": "0.2.1",
        "processing_stage": "raw",
        "experiment": {"name": ", ".join(metadata["Metadata_Experiment"].unique())},
        "aggregation": {
            "method": str(job.get("recipe", {}).get("aggregation", "mean")),
            "source_level": "crop",
            "replicate_count": _crops_per_well(manifest),
        },
        "image_provenance": {"index": job["index"], "channels": job["channels"] or "all"},
        "segmentation_provenance": {"method": "none: crops that cover the field"},
        "feature_extraction_provenance": {
            "tool": "mae_jax",
            "version": manifest.versions.get("mae_jax", ""),
            "encoder": job["encoder"],
            "fingerprint": job["fingerprint"],
        },
    }


def _crops_per_well(manifest: Manifest) -> int:
    """The mean number of crops of a well; 0 while the job is not complete."""
    counts = manifest.counts
    return round(counts["crops"] / counts["embedded"]) if counts.get("embedded") else 0


def write_h5ad(
    target: str | os.PathLike[str] | io.BytesIO,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    rows: Sequence[str] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> None:
    """Write a table of embeddings as an .h5ad file.

    Args:
      target: a path, or an open file.
      metadata: texts, which become obs: numbers as numbers (see `number_columns`), else categories.
      features: becomes X.
      names: the names of the features.
      rows: the names of the rows; None: their numbers.
      uns: texts, groups of texts, and what else is written as JSON.
    """
    import h5py

    def texts(group: Any, name: str, values: list[str] | str) -> Any:
        return group.create_dataset(name, data=values, dtype=h5py.string_dtype())

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_dataset(name, data=values)

    rows = [str(i) for i in range(len(metadata))] if rows is None else list(rows)
    with h5py.File(target, "w") as file:
        _write(file, metadata, features, list(names), rows, uns or {}, texts, array)


def _well_names(metadata: pd.DataFrame) -> list[str]:
    return metadata[list(WELL_COLUMNS)].agg("/".join, axis=1).tolist() if len(metadata) else []


def write_zarr(
    path: str | os.PathLike[str],
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "rows features"],
    names: Sequence[str],
    rows: Sequence[str] | None = None,
    uns: Mapping[str, Any] | None = None,
) -> None:
    """Write a table of embeddings as a Zarr folder of AnnData; see `write_h5ad`."""
    import zarr

    def texts(group: Any, name: str, values: list[str] | str) -> Any:
        shape = () if isinstance(values, str) else (len(values),)
        array = group.create_array(name, shape=shape, dtype=str, chunks=shape)
        array[...] = np.asarray(values, dtype=object)
        return array

    def array(group: Any, name: str, values: np.ndarray) -> Any:
        return group.create_array(name, data=values)

    rows = [str(i) for i in range(len(metadata))] if rows is None else list(rows)
    with replacing(path) as tmp_path:
        # Version 2 of Zarr, since version 3 has not settled how to store strings.
        root = zarr.open_group(tmp_path, mode="w", zarr_format=2)
        _write(root, metadata, features, list(names), rows, uns or {}, texts, array)


def _write(
    root: Any,
    metadata: pd.DataFrame,
    features: Float[np.ndarray, "wells features"],
    names: list[str],
    rows: list[str],
    uns: Mapping[str, Any],
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
            if columns[column].dtype.kind in "if":
                encoded(array(group, column, columns[column].to_numpy()), "array")
                continue
            categories, codes = np.unique(columns[column].to_numpy(str), return_inverse=True)
            inner = encoded(group.create_group(column), "categorical")
            inner.attrs["ordered"] = False
            encoded(texts(inner, "categories", categories.tolist()), "string-array")
            encoded(array(inner, "codes", codes.reshape(-1).astype(np.int32)), "array")

    def entries(group: Any, values: Mapping[str, Any], depth: int = 0) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and depth == 0:
                entries(encoded(group.create_group(key), "dict", "0.1.0"), value, depth + 1)
            else:
                text = value if isinstance(value, str) else json.dumps(value)
                encoded(texts(group, key, text), "string")

    encoded(root, "anndata", "0.1.0")
    encoded(array(root, "X", features), "array")
    table("obs", rows, typed_frame(metadata))
    table("var", names, _feature_table(names))
    for name in ("layers", "obsm", "obsp", "varm", "varp"):
        encoded(root.create_group(name), "dict", "0.1.0")
    entries(encoded(root.create_group("uns"), "dict", "0.1.0"), uns)


def _feature_table(names: Sequence[str]) -> pd.DataFrame:
    """The channel of each feature, if all of them have one in their names."""
    parts = [name.split("_") for name in names]  # Image_MAE_DNA_0000
    if not parts or any(len(part) != 4 or part[:2] != ["Image", "MAE"] for part in parts):
        return pd.DataFrame(index=list(names))
    return pd.DataFrame({"channel": [part[2] for part in parts]}, index=list(names))
