"""Zarr arrays (versions 2 and 3, sharded or not) by tensorstore: planes and windows of planes.

A plane of an array is an image URI with `index`: `plate.zarr/A/1/0/0#index=2` is channel 2 of
an array with the axes channel, y, x; `#index=0,2,0` counts through t, c and z first. Reads are
asynchronous: `read_window_async` asks for the chunks; what it returns waits until they are in uri.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mae_jax.data.image_uri import ImageURI, is_url
from mae_jax.data.storage import Remote, with_retries
from mae_jax.errors import InputError

_NATIVE = ("http://", "https://", "gs://", "s3://")  # what tensorstore reads by itself
_ENDPOINTS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REQUESTS = 128  # to a remote store at once: what hides the wait for each


def in_array(uri: ImageURI) -> bool:
    """Whether the uri is inside a Zarr array and not in a file."""
    return uri.get("index") is not None


@dataclass(frozen=True)
class ZarrHandle:
    """An array that is open, and how patiently it is read."""

    path: str
    array: Any  # tensorstore's, or zarr-python's where tensorstore does not know the protocol
    shape: tuple[int, ...]
    dtype: np.dtype
    remote: Remote


@lru_cache(maxsize=2048)
def open_array(path: str, cache_bytes: int = 0, metadata: str = "") -> ZarrHandle:
    """The array at a local path or URL, kept open in each process.

    Args:
      path: the array.
      cache_bytes: how many bytes of decoded chunks all arrays opened with this number share.
      metadata: the text of the array's `zarr.json`, where it is known: then nothing is read.

    Raises:
      InputError: there is none, or its metadata are broken.
    """
    import tensorstore

    remote = Remote.from_environment()
    if is_url(path) and not path.startswith(_NATIVE):
        other = with_retries(lambda: _zarr_array(path), path, remote)
        return ZarrHandle(path, other, other.shape, other.dtype, remote)
    spec: dict[str, Any] = {"driver": "auto", "kvstore": _store(path)}
    if metadata:
        known = {"metadata": json.loads(metadata), "assume_metadata": True, "open": True}
        spec |= {"driver": "zarr3", **known}
    try:
        waiting = tensorstore.open(
            spec, read=True, context=_context(cache_bytes), recheck_cached_data="open"
        )
        array = waiting.result(timeout=remote.timeout * remote.attempts)
        return ZarrHandle(path, array, array.shape, array.dtype.numpy_dtype, remote)
    except (ValueError, OSError, TimeoutError) as problem:
        if not is_url(path) and not os.path.isdir(path):
            raise InputError(f"{path} does not exist.") from None
        says = str(problem).split(" [")[0]
        raise InputError(f"{path} cannot be opened as a Zarr array ({says}).") from None


def read_array_planes(uris: Sequence[ImageURI]) -> Shaped[np.ndarray, "uris height width"]:
    """The planes at the given uris of one array.

    Raises:
      InputError: the array is missing or broken, or has no such plane.
    """
    opened = open_array(uris[0].path)
    height, width = opened.shape[-2:]
    planes = np.empty((len(uris), height, width), opened.dtype)
    read_window_async(uris, opened, 0, 0, planes)()
    return planes


def read_window_async(
    uris: Sequence[ImageURI],
    opened: ZarrHandle,
    top: int,
    left: int,
    out: Shaped[np.ndarray, "uris height width"],
) -> Callable[[], None]:
    """Asks for a window of every uri of one array, to be written into `out`.

    Places that differ along one axis only (a site's channels) are one request.

    Returns: a function that waits until all is written.

    Raises (also when waiting):
      InputError: the array is broken, has no such plane, or the window lies outside of it.
    """
    height, width = out.shape[1:]
    if top + height > opened.shape[-2] or left + width > opened.shape[-1]:
        raise InputError(f"{opened.path} has no window of {height} × {width} at ({top}, {left}).")
    window = (slice(top, top + height), slice(left, left + width))
    requests = _requests(opened.shape, tuple(uri.get("index") or "" for uri in uris))
    if not requests:
        named = " or ".join(map(str, uris))
        raise InputError(f"{named} names no plane of an array of shape {opened.shape}.")
    waiting = [_start(opened, (*key, *window), out[planes]) for planes, key in requests]

    def wait() -> None:
        for written in waiting:
            written()

    return wait


def _start(opened: ZarrHandle, key: tuple[Any, ...], out: np.ndarray) -> Callable[[], None]:
    """Asks for the part `key` of an array, to be written into `out`."""
    array, path, remote = opened.array, opened.path, opened.remote
    if not hasattr(array, "read"):  # zarr-python

        def read() -> None:
            out[...] = with_retries(lambda: array.get_orthogonal_selection(key), path, remote)

        return read
    import tensorstore

    with tensorstore.Batch() as batch:  # a crop's chunks that lie side by side are one read
        future = tensorstore.array(out).write(array[key], batch=batch)

    def wait() -> None:
        try:
            future.result(timeout=remote.timeout * remote.attempts)
        except (ValueError, OSError, TimeoutError) as problem:
            says = str(problem).split(" [")[0]
            raise InputError(f"{path} is broken or cannot be read ({says}).") from None

    return wait


@lru_cache(maxsize=4096)
def _requests(shape: tuple[int, ...], cells: tuple[str, ...]) -> list[tuple[Any, tuple[Any, ...]]]:
    """Groups planes into requests: which of the planes, and the index of the leading axes.

    Nothing at all where a cell is outside of the array.
    """
    uris = [tuple(int(n) for n in cell.split(",") if n) for cell in cells]
    for uri in uris:
        if len(uri) != len(shape) - 2 or any(n >= m for n, m in zip(uri, shape, strict=False)):
            return []
    varying = [axis for axis in range(len(shape) - 2) if len({cell[axis] for cell in uris}) > 1]
    if len(varying) != 1:
        return [(number, cell) for number, cell in enumerate(uris)]
    axis = varying[0]
    values = [cell[axis] for cell in uris]
    along: Any = np.array(values)
    if values == list(range(values[0], values[0] + len(values))):
        along = slice(values[0], values[0] + len(values))
    key = tuple(along if a == axis else uris[0][a] for a in range(len(shape) - 2))
    return [(slice(None), key)]


@lru_cache(maxsize=8)
def _context(cache_bytes: int) -> Any:
    import tensorstore

    at_once = {"limit": _REQUESTS}
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "http_request_concurrency": at_once,
            "s3_request_concurrency": at_once,
            "gcs_request_concurrency": at_once,
        }
    )


def _store(path: str) -> Any:
    if not is_url(path):
        return {"driver": "file", "path": os.path.abspath(path) + "/"}
    if path.startswith("s3://"):
        return _s3(path)
    return path.rstrip("/") + "/"


def _s3(path: str) -> dict[str, Any]:
    """tensorstore's spec of a uri in S3, with the settings that fsspec takes from variables."""
    bucket, _, inside = path.removeprefix("s3://").partition("/")
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": inside.rstrip("/") + "/"}
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
    """The array at a URL of a protocol that fsspec knows, by zarr-python."""
    import zarr

    return zarr.open_array(path, mode="r")
