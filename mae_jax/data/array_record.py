"""Tiles in ArrayRecord files: one record holds all channels of one tile, as the bytes of an .npy.

A uri is `tiles.array_record#record=17&channel=2`.
"""

import threading
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mae_jax.data.image_uri import ImageURI
from mae_jax.errors import InputError

_local = threading.local()  # readers are not shared between threads
_OPEN = 64  # files that a thread keeps open


def in_record(uri: ImageURI) -> bool:
    """Whether the uri is in an ArrayRecord file."""
    return uri.get("record") is not None


def encode(tile: Shaped[np.ndarray, "channels height width"]) -> bytes:
    """The record of a tile."""
    file = BytesIO()
    np.save(file, np.ascontiguousarray(tile), allow_pickle=False)
    return file.getvalue()


def read_record_planes(uris: Sequence[ImageURI]) -> list[np.ndarray]:
    """The planes at the given uris of one file, each record read once.

    Raises:
      InputError: the file is missing or broken, or has no such record or channel.
    """
    tiles: dict[int, np.ndarray] = {}
    planes = []
    for uri in uris:
        number, channel = uri.get_int("record") or 0, uri.get_int("channel") or 0
        if number not in tiles:
            tiles[number] = _read(uri.path, number)
        if channel >= len(tiles[number]):
            raise InputError(f"{uri}: the tile has {len(tiles[number])} channels only.")

        planes.append(tiles[number][channel])
    return planes


def _read(path: str, number: int) -> np.ndarray:
    reader = _reader(path)
    if number >= reader.num_records():
        raise InputError(f"{path} has no record {number}; it has {reader.num_records()}.")
    try:
        raw = reader.read([number])[0]
        head = BytesIO(raw[:256])
        np.lib.format.read_magic(head)
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        return np.frombuffer(raw, dtype, offset=head.tell()).reshape(shape)  # without a copy
    except (ValueError, IndexError, RuntimeError, EOFError, OSError) as problem:
        raise InputError(f"{path} is broken at record {number} ({problem}).") from None


def _reader(path: str) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    opened: dict[str, Any] = _local.__dict__.setdefault("opened", {})
    if path not in opened:
        if len(opened) >= _OPEN:
            opened.pop(next(iter(opened))).close()
        try:
            opened[path] = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        except (ValueError, RuntimeError, OSError) as problem:
            raise InputError(f"{path} cannot be opened as ArrayRecord ({problem}).") from None
    return opened[path]
