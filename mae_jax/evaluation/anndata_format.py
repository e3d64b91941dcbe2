"""Profiles from AnnData's on-disk format: .h5ad files and .zarr folders, read without trust.

Files come from elsewhere, so nothing in them is believed: sparse indices are checked before any
array is filled, arrays may not lie outside of the file, and no array may be larger than what its
stored bytes can hold.
"""

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mae_jax.errors import InputError

# No compression of HDF5 or Zarr in use packs a byte of an array into less than 1/MAX_RATIO bytes.
MAX_RATIO = 1100
# What any array may hold, however few bytes are stored of it.
FREE_BYTES = 1 << 20


class AnnData(NamedTuple):
    """Features (N, F) float32, the F names, and obs as a table of raw values."""

    features: np.ndarray
    names: tuple[str, ...]
    obs: pd.DataFrame


class Malformed(ValueError):
    """The file breaks the format; the message names the element."""


def is_anndata(path: Path) -> bool:
    """Whether `path` is an .h5ad file or a Zarr folder that holds `obs`."""
    if path.is_dir():
        return any((path / "obs" / name).is_file() for name in (".zgroup", "zarr.json"))
    return path.suffix == ".h5ad"


def read_anndata(path: Path, obsm: str | None = None) -> AnnData:
    """Read `X` (dense, CSR or CSC), or a matrix of `obsm`, with `obs` and the names of features.

    Memory is bounded by 1,100 times the stored size of each array, plus 1 MiB.

    Args:
      path: an .h5ad file or an AnnData .zarr folder.
      obsm: a key of `obsm`, such as "X_pca"; None reads `X`.

    Raises:
      InputError: the file is not readable, is damaged, or lacks the matrix.
    """
    try:
        if path.is_dir():
            import zarr

            return _read(zarr.open_group(path, mode="r"), path, obsm)
        import h5py

        with h5py.File(path, "r") as file:
            return _read(file, path, obsm)
    except InputError:
        raise
    except Exception as error:
        # Everything here parses foreign bytes, and the libraries raise all kinds of errors.
        reason = " ".join(str(error).split()) or type(error).__name__
        kind = "AnnData .zarr" if path.is_dir() else ".h5ad"
        raise InputError(
            f"{path} is not readable as {kind} ({reason[:200]}); write it anew."
        ) from None


def _read(root: Any, path: Path, obsm: str | None) -> AnnData:
    if "obs" not in root or (obsm is None and "X" not in root):
        raise InputError(f"{path} has no X and obs, which AnnData files have.")
    if obsm is None:
        element = _child(root, "X")
    else:
        keys = list(root["obsm"]) if "obsm" in root else []
        if obsm not in keys:
            known = ", ".join(keys) or "none"
            raise InputError(f"{path} has no obsm matrix '{obsm}'; it has: {known}.")
        element = _child(_child(root, "obsm"), obsm)
    features = _sparse(element) if _is_group(element) else _matrix(element)
    rows, width = features.shape
    obs_group = _child(root, "obs")
    columns = {name: _column(obs_group, name, rows) for name in _column_names(obs_group)}
    if obsm is None:
        names = _index(_child(root, "var"), width) if "var" in root else None
    else:
        names = [f"{obsm}_{i:04d}" for i in range(width)]
    if names is None:
        names = [f"feature_{i}" for i in range(width)]
    return AnnData(features, tuple(names), pd.DataFrame(columns, index=range(rows)))


def _is_group(element: Any) -> bool:
    return not hasattr(element, "dtype")


def _child(group: Any, name: str) -> Any:
    """A member of a group, unless it lies in another file."""
    if not _is_group(group) and not hasattr(group, "keys"):
        raise Malformed(f"{name} has no group around it")
    if hasattr(group, "get") and hasattr(group, "file"):  # HDF5
        import h5py

        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise Malformed(f"{name} is a link to another file")
    return group[name]


def _array(element: Any, ndim: int | None = None, kinds: str = "") -> np.ndarray:
    """An array in memory, once its size, its storage and its type are known to be sane."""
    name = posixpath.basename(str(getattr(element, "name", "array")))
    if _is_group(element):
        raise Malformed(f"{name} is a group, not an array")
    if getattr(element, "external", None) or getattr(element, "is_virtual", False):
        raise Malformed(f"{name} is stored in another file")
    if ndim is not None and len(element.shape) != ndim:
        raise Malformed(f"{name} has {len(element.shape)} dimensions, not {ndim}")
    if kinds and element.dtype.kind not in kinds:
        raise Malformed(f"{name} has type {element.dtype}")
    claimed = int(np.prod([int(n) for n in element.shape], dtype=object)) * element.dtype.itemsize
    stored = _stored_bytes(element)
    if claimed > MAX_RATIO * stored + FREE_BYTES:
        raise Malformed(f"{name} claims {claimed} bytes of which {stored} are stored")
    return np.asarray(element[()])


def _stored_bytes(element: Any) -> int:
    if hasattr(element, "id"):
        return int(element.id.get_storage_size())
    return int(element.nbytes_stored())


def _matrix(element: Any) -> np.ndarray:
    values = _array(element, 2, "fiub")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _sparse(group: Any) -> np.ndarray:
    """A CSR or CSC matrix as a dense one, after its indices were checked."""
    import scipy.sparse

    encoding = _text(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "csr")))
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    if encoding[:3] not in ("csr", "csc") or shape is None:
        raise Malformed(f"X is a group of type {encoding[:40]}, not a sparse matrix")
    sizes = [int(n) for n in np.asarray(shape).reshape(-1)]
    if len(sizes) != 2 or min(sizes) < 0 or max(sizes) >= 1 << 40:
        raise Malformed(f"the sparse matrix has shape {sizes[:4]}")
    data = _array(_child(group, "data"), 1, "fiub")
    indices = _array(_child(group, "indices"), 1, "iu").astype(np.int64)
    indptr = _array(_child(group, "indptr"), 1, "iu").astype(np.int64)
    major, minor = sizes if encoding.startswith("csr") else sizes[::-1]
    if len(indptr) != major + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise Malformed(f"indptr does not describe {major} rows")
    if not indptr[-1] == len(indices) == len(data):
        raise Malformed(f"{len(data)} values, {len(indices)} indices and {indptr[-1]} in indptr")
    if len(indices) and (indices.min() < 0 or indices.max() >= minor):
        raise Malformed(f"an index is outside of 0 to {minor - 1}")
    dense_bytes = 4 * sizes[0] * sizes[1]
    if dense_bytes > MAX_RATIO * (data.nbytes + indptr.nbytes) + FREE_BYTES:
        raise Malformed(f"{len(data)} values claim a dense matrix of {dense_bytes} bytes")
    build = scipy.sparse.csr_matrix if encoding.startswith("csr") else scipy.sparse.csc_matrix
    with np.errstate(over="ignore"):
        matrix = build((data.astype(np.float32), indices, indptr), shape=tuple(sizes))
    return np.ascontiguousarray(matrix.toarray())


def _column_names(group: Any) -> list[str]:
    order = group.attrs.get("column-order")
    if order is not None:
        return [_text(c) for c in np.asarray(order).reshape(-1)]
    index = _text(group.attrs.get("_index", "_index"))
    return [c for c in group if c not in (index, "__categories")]


def _column(group: Any, name: str, rows: int) -> list[Any]:
    element = _child(group, name)
    if not _is_group(element):
        values = _values(element)
    elif "categories" in element:  # codes into categories, -1 where missing
        categories = _values(_child(element, "categories"))
        codes = _array(_child(element, "codes"), 1, "iu").astype(np.int64)
        if len(codes) and (codes.min() < -1 or codes.max() >= len(categories)):
            raise Malformed(f"a code of obs column {name} has no category")
        values = [categories[c] if c >= 0 else None for c in codes]
    elif "values" in element and "mask" in element:  # nullable
        mask = _array(_child(element, "mask"), 1)
        pairs = zip(_values(_child(element, "values")), mask, strict=True)
        values = [None if missing else value for value, missing in pairs]
    else:
        raise Malformed(f"obs column {name} has an unknown encoding")
    if len(values) != rows:
        raise Malformed(f"obs column {name} has {len(values)} rows, the matrix {rows}")
    return values


def _index(group: Any, width: int) -> list[str] | None:
    name = _text(group.attrs.get("_index", "_index"))
    if name not in group:
        return None
    names = [str(v) for v in _column(group, name, width)]
    if len(set(names)) != width:
        raise Malformed("two features of var have the same name")
    return names


def _values(element: Any) -> list[Any]:
    values = _array(element, 1)
    if values.dtype.kind not in "fiubSUOT":
        raise Malformed(f"a column has type {values.dtype}")
    decoded = [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]
    if any(isinstance(v, (list, tuple, Mapping, np.ndarray)) for v in decoded):
        raise Malformed("a column holds values that are not text or numbers")
    return decoded


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
