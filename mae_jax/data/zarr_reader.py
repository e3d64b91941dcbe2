"""Zarr arrays (versions 2 and 3, sharded or not) by tensorstore: planes and windows of planes.

The URI of a plane is that of the array with `index`: `plate.zarr/A/1/0/0#index=2` is channel 2 of
an array with the axes channel, y, x; `#index=0,2,0` selects t, c and z. Reads are asynchronous:
`read_window_async` requests the chunks and returns a function that waits for them.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mae_jax.data.image_headers import MAX_DECODED_BYTES, check_dtype, check_size
from mae_jax.data.image_uri import ImageURI, is_url
from mae_jax.data.storage import Remote, check_protocol, with_retries
from mae_jax.errors import InputError, MachineError, redact_credentials

_NATIVE = ("http://", "https://", "gs://", "s3://")  # what tensorstore reads by itself
_ENDPOINTS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
COMPLETE = "complete"  # the attribute, below mae_jax, of arrays whose chunks are all stored
_CONCURRENCY = 128  # requests to a remote store at once, which hides the latency of each
# How tensorstore's messages begin where the machine or the network fails, not the array.
# How it says that an array has a codec it does not know, such as JPEG-XL.
_UNKNOWN_CODEC = re.compile(r'"\w+" is not registered')
_TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED")

_Selection = int | slice | np.ndarray


def in_array(uri: ImageURI) -> bool:
    """Whether a URI selects a plane of a Zarr array, and not of a file or a projection."""
    return uri.get("index") is not None and uri.get("project") is None


@dataclass(frozen=True)
class ZarrHandle:
    """An open array, and the time limits of reading it."""

    path: str
    array: Any  # tensorstore's, or zarr-python's where tensorstore does not know the protocol
    shape: tuple[int, ...]
    dtype: np.dtype
    remote: Remote
    one_chunk: bool = False  # any window costs the decoding of the whole array, and is not cached


@lru_cache(maxsize=2048)
def open_array(path: str, cache_bytes: int = 0, metadata: str = "") -> ZarrHandle:
    """Opens the array at a local path or URL; it stays open in each process.

    Args:
      path: the array.
      cache_bytes: size of the cache of decoded chunks, shared by all arrays opened with this
        number.
      metadata: the text of the array's `zarr.json`, where it is known: then nothing is read.

    Raises:
      InputError: there is none, its metadata are broken, or its planes or chunks are too large.
      MachineError: it is out of reach.
    """
    import tensorstore

    check_protocol(path)
    remote = Remote.from_environment()
    if is_url(path) and not path.startswith(_NATIVE):
        other = with_retries(lambda: _zarr_array(path), path, remote)
        _check_array(path, other.shape, other.dtype, other.chunks)
        return ZarrHandle(path, other, other.shape, other.dtype, remote)
    try:

        def opened(spec: dict[str, Any]) -> Any:
            pending = tensorstore.open(
                spec, read=True, context=_context(cache_bytes), recheck_cached_data="open"
            )
            return pending.result(timeout=remote.timeout * remote.attempts)

        store = {"kvstore": _store(path)}
        if metadata:
            array = opened(_known_spec(store, json.loads(metadata)))
            _check_only_shard(path, json.loads(metadata))
        else:
            array = opened({"driver": "auto", **store})
            described = array.spec().to_json().get("metadata", {})
            if is_complete(described):
                array = opened(_known_spec(store, described))
        dtype = array.dtype.numpy_dtype
        chunk: Any = array.chunk_layout.read_chunk.shape
        _check_array(path, array.shape, dtype, chunk or array.shape)
        return ZarrHandle(path, array, array.shape, dtype, remote)
    except InputError:
        raise
    except Exception as error:  # ValueError and others, by what is broken
        if _UNKNOWN_CODEC.search(str(error)):
            return _open_with_zarr(path, remote)
        if not is_url(path) and not os.path.isdir(path):
            raise InputError(f"{path} does not exist.") from None
        raise _read_error(path, "cannot be opened as a Zarr array", error) from None


def _open_with_zarr(path: str, remote: Remote) -> ZarrHandle:
    """Opens an array by zarr-python, which knows the codecs of imagecodecs, such as JPEG-XL.

    Raises:
      InputError: its codec is unknown to both, or its only chunk is missing.
      MachineError: it is out of reach.
    """
    try:
        array = with_retries(lambda: _zarr_array(path), path, remote) if is_url(
            path
        ) else _zarr_array(path)  # fmt: skip
    except (InputError, MachineError):
        raise
    except Exception as error:  # by what is broken
        raise _read_error(path, "cannot be opened as a Zarr array", error) from None
    _check_array(path, array.shape, array.dtype, array.chunks)
    one_chunk = all(map(int.__ge__, array.chunks, array.shape))
    if one_chunk and not is_url(path):
        file = os.path.join(path, array.metadata.encode_chunk_key((0,) * len(array.shape)))
        if not os.path.exists(file):  # Zarr would read it as zeros
            raise InputError(f"{file} does not exist; copy the store again.")
    return ZarrHandle(path, array, array.shape, array.dtype, remote, one_chunk)


def is_complete(metadata: Mapping[str, Any]) -> bool:
    """Whether an array's `zarr.json` says that all its chunks are stored, black ones too."""
    own = metadata.get("attributes", {}).get("mae_jax", {})
    return isinstance(own, Mapping) and own.get(COMPLETE) is True


def _known_spec(store: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """tensorstore's spec of an array whose `zarr.json` is known: opening it reads nothing.

    In a complete array a missing chunk is an error, where Zarr would read it as zeros.
    """
    spec = {"driver": "zarr3", **store, "metadata": metadata, "assume_metadata": True, "open": True}
    return spec | {"fill_missing_data_reads": not is_complete(metadata)}


def _check_only_shard(path: str, metadata: Mapping[str, Any]) -> None:
    """Checks that the one file of a packed field exists, where its chunks may be left out.

    Stores of earlier versions do not hold black chunks. Their shards can be checked.
    """
    if is_url(path) or is_complete(metadata):
        return
    grid = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    file = os.path.join(path, "c", *("0" for _ in grid))
    if all(map(int.__ge__, grid, metadata["shape"])) and not os.path.exists(file):
        raise InputError(f"{file} does not exist; copy the store again.")


def _check_array(path: str, shape: Sequence[int], dtype: np.dtype, chunk: Sequence[int]) -> None:
    name = redact_credentials(path)
    if len(shape) < 2:
        raise InputError(f"{name} has the shape {tuple(shape)}, which holds no planes.")
    check_dtype(name, dtype)
    check_size(name, shape[-2], shape[-1], shape[-2] * shape[-1] * dtype.itemsize)
    chunk_bytes = dtype.itemsize
    for length in chunk:
        chunk_bytes *= int(length)
    if chunk_bytes > MAX_DECODED_BYTES:
        raise InputError(
            f"{name} has chunks of {chunk_bytes / 2**30:.2g} GiB, more than the limit; rewrite it "
            "with smaller ones."
        )


def _read_error(path: str, problem: str, error: Exception) -> InputError | MachineError:
    """The error to raise for one of tensorstore's, by whose fault it is."""
    reason = redact_credentials(str(error).split(" [")[0].split("\n")[0])[:300]
    if isinstance(error, TimeoutError | MemoryError) or str(error).startswith(_TRANSIENT):
        return MachineError(
            f"{redact_credentials(path)} is out of reach ({reason or 'no answer in time'})."
        )
    return InputError(f"{redact_credentials(path)} {problem} ({reason}).")


def read_array_planes(uris: Sequence[ImageURI]) -> Shaped[np.ndarray, "planes height width"]:
    """The planes that some URIs select in one array.

    Raises:
      InputError: the array is missing or broken, or has no such plane.
      MachineError: it is out of reach.
    """
    handle = open_array(uris[0].path)
    height, width = handle.shape[-2:]
    planes = np.empty((len(uris), height, width), handle.dtype)
    read_window_async(uris, handle, 0, 0, planes)()
    return planes


def read_window_async(
    uris: Sequence[ImageURI],
    handle: ZarrHandle,
    top: int,
    left: int,
    out: Shaped[np.ndarray, "planes height width"],
) -> Callable[[], None]:
    """Requests a window of some planes of one array, to be written into `out`.

    Planes that differ along one axis only (a site's channels) are one request.

    Returns: a function that waits until all is written.

    Raises (also when waiting):
      InputError: the array is broken, has no such plane, or the window lies outside of it.
      MachineError: it is out of reach.
    """
    height, width = out.shape[1:]
    if top + height > handle.shape[-2] or left + width > handle.shape[-1]:
        raise InputError(f"{handle.path} has no window of {height} × {width} at ({top}, {left}).")
    window = (slice(top, top + height), slice(left, left + width))
    requests = _requests(handle.shape, tuple(uri.get("index") or "" for uri in uris))
    if not requests:
        names = " or ".join(map(str, uris))
        raise InputError(f"{names} names no plane of an array of shape {handle.shape}.")
    pending = [_read_async(handle, (*key, *window), out[planes]) for planes, key in requests]

    def wait() -> None:
        for wait_for_request in pending:
            wait_for_request()

    return wait


def _read_async(
    handle: ZarrHandle, key: tuple[_Selection, ...], out: np.ndarray
) -> Callable[[], None]:
    """Requests the region `key` of an array, to be written into `out`."""
    array, path, remote = handle.array, handle.path, handle.remote
    if not hasattr(array, "read"):  # zarr-python

        def read() -> None:
            if is_url(path):
                out[...] = with_retries(lambda: array.get_orthogonal_selection(key), path, remote)
                return
            try:
                out[...] = array.get_orthogonal_selection(key)
            except Exception as error:  # codecs raise exceptions of any type on damaged chunks
                raise _read_error(path, "is broken or cannot be read", error) from None

        return read
    import tensorstore

    with tensorstore.Batch() as batch:  # adjacent chunks of a crop are one read
        future = tensorstore.array(out).write(array[key], batch=batch)

    def wait() -> None:
        try:
            future.result(timeout=remote.timeout * remote.attempts)
        except (ValueError, OSError, TimeoutError, MemoryError) as error:
            raise _read_error(path, "is broken or cannot be read", error) from None

    return wait


@lru_cache(maxsize=4096)
def _requests(
    shape: tuple[int, ...], indices: tuple[str, ...]
) -> list[tuple[int | slice, tuple[_Selection, ...]]]:
    """Groups planes into requests: which of the planes, and the index of the leading axes.

    Empty where an index is outside of the array.
    """
    try:
        cells = [tuple(int(n) for n in index.split(",") if n) for index in indices]
    except ValueError:
        return []
    for cell in cells:
        inside = all(0 <= n < length for n, length in zip(cell, shape, strict=False))
        if len(cell) != len(shape) - 2 or not inside:
            return []
    varying = [axis for axis in range(len(shape) - 2) if len({cell[axis] for cell in cells}) > 1]
    if len(varying) != 1:
        return [(number, cell) for number, cell in enumerate(cells)]
    axis = varying[0]
    values = [cell[axis] for cell in cells]
    selection: _Selection = np.array(values)
    if values == list(range(values[0], values[0] + len(values))):
        selection = slice(values[0], values[0] + len(values))
    key = tuple(selection if a == axis else cells[0][a] for a in range(len(shape) - 2))
    return [(slice(None), key)]


@lru_cache(maxsize=8)
def _context(cache_bytes: int) -> Any:
    import tensorstore

    concurrency = {"limit": _CONCURRENCY}
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "http_request_concurrency": concurrency,
            "s3_request_concurrency": concurrency,
            "gcs_request_concurrency": concurrency,
        }
    )


def _store(path: str) -> Any:
    if not is_url(path):
        return {"driver": "file", "path": os.path.abspath(path) + "/"}
    if path.startswith("s3://"):
        return _s3(path)
    return path.rstrip("/") + "/"


def _s3(path: str) -> dict[str, Any]:
    """tensorstore's spec of a path in S3, with the settings that fsspec takes from variables."""
    bucket, _, key = path.removeprefix("s3://").partition("/")
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": key.rstrip("/") + "/"}
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
    if endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    if os.environ.get("FSSPEC_S3_ANON", "").lower() == "true":
        spec["aws_credentials"] = {"type": "anonymous"}
    elif os.environ.get("AWS_ACCESS_KEY_ID"):
        spec["aws_credentials"] = {"type": "environment"}
    return spec


def _zarr_array(path: str) -> Any:
    """The array at a path, or a URL of a protocol that fsspec knows, by zarr-python."""
    import imagecodecs.numcodecs
    import zarr

    imagecodecs.numcodecs.register_codecs(verbose=False)
    return zarr.open_array(path, mode="r")
