"""Tensors in safetensors files.

A file is read by its header: every size is compared with the file's own before anything is
allocated, so that reading takes no more memory than the file has bytes (headers of up to 16 MiB,
which is over 100,000 tensors).
"""

import dataclasses
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy

from mae_jax.errors import InputError

MAX_HEADER_BYTES = 16 * 2**20
_DTYPES: dict[str, type] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One tensor of a file: dtype, shape and the byte range of its data in the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class SafetensorsHeader:
    """The header of a file: its tensors by name, and its metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """Read and check the header of a safetensors file.

    Raises:
      InputError: the file is missing, truncated or in another format.
    """
    path = Path(path)
    size = regular_file_size(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError("the header does not fit the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor_info(info, 8 + length) for name, info in header.items()}
        end = max([info.stop for info in tensors.values()], default=8 + length)
        total = sum(info.stop - info.start for info in tensors.values())
        if end != size or total != size - 8 - length:
            raise ValueError(f"its tensors take {total} bytes and {size - 8 - length} are there")
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata holds other values than text")
    except InputError:
        raise
    except Exception as problem:  # malformed headers raise many types
        raise InputError(
            f"{path} is not a whole safetensors file ({first_line(problem)}); "
            "copy or download it again."
        ) from None
    return SafetensorsHeader(tensors, metadata)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file.

    Raises:
      InputError: the file is missing, truncated or in another format.
    """
    header = read_header(path)
    tensors = {}
    with Path(path).open("rb") as file:
        for name, info in header.tensors.items():
            file.seek(info.start)
            data = bytearray(info.stop - info.start)
            if file.readinto(data) != len(data):
                raise InputError(f"{path} became shorter while it was read; read it again.")
            tensors[name] = np.frombuffer(data, info.dtype).reshape(info.shape)
    return tensors


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to `path`, with the permissions that the umask gives new files."""
    path = Path(path)
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    # safetensors writes buffers as they are in memory: they must be contiguous.
    contiguous = {
        name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()
    }
    safetensors.numpy.save_file(contiguous, path, dict(metadata) if metadata else None)
    path.chmod(mode)  # safetensors makes files that their owner alone can read


def regular_file_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
      InputError: there is no file, or it is a folder, device or pipe (which could be endless).
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is not a regular file; check the path.")
    return status.st_size


def first_line(problem: BaseException) -> str:
    """Return the first line of an exception's message, or its type where it has none."""
    text = str(problem).strip()
    return text.splitlines()[0][:200] if text else type(problem).__name__


def _tensor_info(info: dict[str, object], data_start: int) -> TensorInfo:
    dtype = _DTYPES.get(str(info["dtype"]))
    if dtype is None:
        raise ValueError(f"the dtype {info['dtype']} is not supported")
    shape, offsets = info["shape"], info["data_offsets"]
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        raise ValueError("a tensor has no shape or no offsets")
    if not all(type(n) is int and n >= 0 for n in [*shape, *offsets]):
        raise ValueError("a shape or an offset is not a whole number")
    start, stop = offsets
    if stop - start != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError("a tensor's shape does not fit its data")
    return TensorInfo(np.dtype(dtype), tuple(shape), data_start + start, data_start + stop)
