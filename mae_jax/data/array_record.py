"""Tiles in ArrayRecord files: one record holds all channels of one tile, as the bytes of an .npy.

The URI of a plane is `tiles.array_record#record=17&channel=2`.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from mae_jax.data.image_headers import check_size, read_npy
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.storage import reason
from mae_jax.errors import InputError

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordReader

_local = threading.local()  # readers are not shared between threads
_MAX_OPEN = 64  # files that a thread keeps open


def in_record(uri: ImageURI) -> bool:
    """Whether a URI selects a record of an ArrayRecord file."""
    return uri.get("record") is not None


def encode(tile: Shaped[np.ndarray, "channels height width"]) -> bytes:
    """The record of a tile."""
    file = BytesIO()
    np.save(file, np.ascontiguousarray(tile), allow_pickle=False)
    return file.getvalue()


def read_record_planes(uris: Sequence[ImageURI]) -> list[Shaped[np.ndarray, "height width"]]:
    """The planes that some URIs select in one file, each record read once.

    Raises:
      InputError: the file is missing or broken, or has no such record or channel.
    """
    tiles: dict[int, np.ndarray] = {}
    planes = []
    for uri in uris:
        number, channel = uri.get_int("record") or 0, uri.get_int("channel") or 0
        if number not in tiles:
            tiles[number] = _read_tile(uri.path, number)
        if channel >= len(tiles[number]):
            raise InputError(f"{uri}: the tile has {len(tiles[number])} channels only.")
        planes.append(tiles[number][channel])
    return planes


def _read_tile(path: str, number: int) -> Shaped[np.ndarray, "channels height width"]:
    reader = _reader(path)
    if number >= reader.num_records():
        raise InputError(f"{path} has no record {number}; it has {reader.num_records()}.")
    try:
        tile = read_npy(reader.read([number])[0], path)
        if tile.ndim != 3:
            raise ValueError(f"its shape is {tile.shape}, not channels, height, width")
    except InputError:
        raise
    except Exception as error:  # of any type on damaged files
        raise InputError(f"{path} is broken at record {number} ({reason(error)}).") from None
    check_size(path, tile.shape[1], tile.shape[2], tile.nbytes)
    return tile


def _reader(path: str) -> "ArrayRecordReader":
    from array_record.python.array_record_module import ArrayRecordReader

    opened: dict[str, ArrayRecordReader] = _local.__dict__.setdefault("opened", {})
    if path not in opened:
        if not os.path.isfile(path):
            missing = "is no regular file" if os.path.exists(path) else "does not exist"
            raise InputError(f"{path} {missing}.")
        if len(opened) >= _MAX_OPEN:
            oldest = opened.pop(next(iter(opened)))
            with suppress(RuntimeError):  # a reader of a damaged file complains again
                oldest.close()
        try:
            opened[path] = ArrayRecordReader(path, "readahead_buffer_size:0,max_parallelism:0")
        except Exception as error:  # of any type on damaged files
            raise InputError(f"{path} cannot be opened as ArrayRecord ({reason(error)}).") from None
    return opened[path]
