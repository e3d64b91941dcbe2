"""Zarr arrays (versions 2 and 3, sharded or not) by tensorstore: planes and windows of planes.

A place in an array is a locator with the fragment `at`: `plate.zarr/A/1/0/0#at=2` is channel 2 of
an array with the axes channel, y, x; `#at=0,2,0` counts through t, c and z first. Reads are
asynchronous: `start_window` asks for the chunks, `result()` of what it returns waits for them.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mae_jax.data.locators import Locator, is_url
from mae_jax.data.storage import Remote, with_retries
from mae_jax.errors import InputError

Planes = Sequence[np.ndarray] | np.ndarray
_NATIVE = ("http://", "https://", "gs://", "s3://")  # what tensorstore reads by itself


def in_array(place: Locator) -> bool:
    """Whether the place is inside a Zarr array and not in a file."""
    return place.part("at") is not None


@lru_cache(maxsize=8192)
def open_array(path: str, cache_bytes: int = 0) -> Any:
    """The array at a local path or URL, opened once in each process.

    Args:
      path: the array.
      cache_bytes: how many bytes of decoded chunks all arrays opened with this number share.

    Raises:
      InputError: there is none, or its metadata are broken.
    """
    import tensorstore

    if is_url(path) and not path.startswith(_NATIVE):
        return _open_by_fsspec(path)
    spec = {"driver": "auto", "kvstore": _store(path)}
    try:
        remote = Remote.from_environment()
        waiting = tensorstore.open(
            spec, read=True, context=_context(cache_bytes), recheck_cached_data="open"
        )
        return waiting.result(timeout=remote.timeout * remote.attempts)
    except (ValueError, OSError, TimeoutError) as problem:
        if not is_url(path) and not os.path.isdir(path):
            raise InputError(f"{path} does not exist.") from None
        says = str(problem).split(" [")[0]
        raise InputError(f"{path} cannot be opened as a Zarr array ({says}).") from None


def plane_size(place: Locator, cache_bytes: int = 0) -> tuple[int, int]:
    """Height and width of the plane at `place`, from the array's metadata alone."""
    height, width = open_array(place.path, cache_bytes).shape[-2:]
    return int(height), int(width)


def start_window(
    places: Sequence[Locator],
    top: int,
    left: int,
    height: int,
    width: int,
    cache_bytes: int = 0,
) -> Callable[[], Planes]:
    """Asks for a window of every place at once; the function returned waits for the pixels.

    Where one request brings all places they come as one array, (places, height, width).

    Places in one array that differ along one axis only (a site's channels) are one request.

    Raises (also when waiting):
      InputError: an array is missing or broken, or the window lies outside of it.
    """
    waiting: list[tuple[list[int], Callable[[], np.ndarray]]] = []
    for path in dict.fromkeys(place.path for place in places):
        numbers = [n for n, place in enumerate(places) if place.path == path]
        array = open_array(path, cache_bytes)
        cells = [_cell(places[n], array) for n in numbers]
        for group in _requests(cells):
            key = (*group[1], slice(top, top + height), slice(left, left + width))
            if top + height > array.shape[-2] or left + width > array.shape[-1]:
                raise InputError(f"{path} has no window of {height} × {width} at ({top}, {left}).")
            waiting.append(([numbers[i] for i in group[0]], _start(array, key, path)))

    if len(waiting) == 1 and waiting[0][0] == list(range(len(places))):
        only = waiting[0][1]
        return lambda: only().reshape(len(places), height, width)

    def wait() -> Planes:
        planes: list[np.ndarray | None] = [None] * len(places)
        for numbers, result in waiting:
            found = result().reshape(len(numbers), height, width)
            for number, plane in zip(numbers, found, strict=True):
                planes[number] = plane
        return [plane for plane in planes if plane is not None]

    return wait


def _start(array: Any, key: tuple[Any, ...], path: str) -> Callable[[], np.ndarray]:
    remote = Remote.from_environment()
    if not hasattr(array, "read"):  # zarr-python, over fsspec
        return lambda: with_retries(
            lambda: np.asarray(array.get_orthogonal_selection(key)), path, remote
        )
    import tensorstore

    with tensorstore.Batch() as batch:  # a crop's chunks that lie side by side are one read
        future = array[key].read(batch=batch)

    def wait() -> np.ndarray:
        try:
            return np.asarray(future.result(timeout=remote.timeout * remote.attempts))
        except (ValueError, OSError, TimeoutError) as problem:
            says = str(problem).split(" [")[0]
            raise InputError(f"{path} is broken or cannot be read ({says}).") from None

    return wait


def _cell(place: Locator, array: Any) -> tuple[int, ...]:
    text = place.part("at") or ""
    cell = tuple(int(n) for n in text.split(",") if n)
    shape = array.shape
    if len(cell) != len(shape) - 2 or any(n >= m for n, m in zip(cell, shape, strict=False)):
        raise InputError(f"{place} names no plane of an array of shape {tuple(shape)}.")
    return cell


def _requests(cells: Sequence[tuple[int, ...]]) -> list[tuple[list[int], tuple[Any, ...]]]:
    """Groups the cells into requests: (numbers of the cells, index of the leading axes)."""
    axes = len(cells[0])
    varying = [a for a in range(axes) if len({cell[a] for cell in cells}) > 1]
    if len(varying) > 1:
        return [([number], cell) for number, cell in enumerate(cells)]
    if not varying:
        if len(cells) > 1:
            return [([number], cell) for number, cell in enumerate(cells)]
        return [([0], cells[0])]
    axis = varying[0]
    values = [cell[axis] for cell in cells]
    along: Any = np.array(values)
    if values == list(range(values[0], values[0] + len(values))):
        along = slice(values[0], values[0] + len(values))
    key = tuple(along if a == axis else cells[0][a] for a in range(axes))
    return [(list(range(len(cells))), key)]


@lru_cache(maxsize=8)
def _context(cache_bytes: int) -> Any:
    import tensorstore

    return tensorstore.Context({"cache_pool": {"total_bytes_limit": cache_bytes}})


def _store(path: str) -> Any:
    if not is_url(path):
        return {"driver": "file", "path": os.path.abspath(path) + "/"}
    if path.startswith("s3://") and os.environ.get("FSSPEC_S3_ANON", "").lower() == "true":
        bucket, _, inside = path.removeprefix("s3://").partition("/")
        anonymous = {"type": "anonymous"}  # as fsspec reads public buckets with that setting
        return {
            "driver": "s3",
            "bucket": bucket,
            "path": inside.rstrip("/") + "/",
            "aws_credentials": anonymous,
        }
    return path.rstrip("/") + "/"


def _open_by_fsspec(path: str) -> Any:
    def opened() -> Any:
        import zarr

        return zarr.open_array(path, mode="r")

    return with_retries(opened, path, Remote.from_environment())
