"""Tensors in PyTorch's formats, read and written without PyTorch.

A torch file is a zip of one pickle, which describes the tensors, and one raw file for each
storage; before version 1.6 it was a row of pickles with the storages behind them, as torchvision's
older ImageNet checkpoints still are. Pickles can call anything, so this reader knows by name the
few constructors that a state dict needs and refuses every other: nothing from the file is ever
executed.
"""

import collections
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mae_jax.errors import InputError
from mae_jax.weights.safetensors_file import read_safetensors

_MAGIC = 0x1950A86A20F9469CFC6C  # with which files from before version 1.6 begin
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """A state dict by name, from a torch or a safetensors file, whatever its suffix says.

    The format is told by the first bytes (`PK` for torch's zip). Tables under "state_dict",
    "model" or "model_state_dict" are looked into.

    Raises:
      InputError: a missing file, another format, or a pickle that holds more than tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    if magic == b"PK":
        return _tensors(_read_zip(path), path)
    if magic == b"\x80\x02":
        return _tensors(_read_row_of_pickles(path), path)
    return read_safetensors(path)


def _tensors(found: Any, path: Path) -> dict[str, np.ndarray]:
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}, not a state dict.")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, np.ndarray)}
    if not tensors:
        raise InputError(f"{path} holds no tensors at its top level or under 'state_dict'.")
    return tensors


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path} is a zip, but not one of PyTorch (no data.pkl).")
            root = pickles[0].removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist():
                order = archive.read(f"{root}byteorder")
                if order != b"little":
                    raise InputError(f"{path} is {order.decode()}-endian, which is not read.")

            def read(key: str, dtype: np.dtype, count: int) -> np.ndarray:
                return np.frombuffer(archive.read(f"{root}data/{key}"), dtype)

            return _Reader(io.BytesIO(archive.read(f"{root}data.pkl")), read, path).load()
    except (zipfile.BadZipFile, EOFError, pickle.UnpicklingError, KeyError) as problem:
        raise InputError(f"{path} is no whole torch file ({problem}).") from None


def _read_row_of_pickles(path: Path) -> Any:
    """Magic number, protocol, system, the object; keys of its storages; the storages."""
    seen: dict[str, tuple[np.dtype, int]] = {}
    whole: dict[str, np.ndarray] = {}

    def note(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        seen[key] = (dtype, count)
        if count * dtype.itemsize > path.stat().st_size:
            raise pickle.UnpicklingError(f"storage {key} is truncated")
        return np.zeros(count, dtype)

    def find(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        return whole[key]

    try:
        with path.open("rb") as file:
            if _Reader(file, note, path).load() != _MAGIC:
                raise pickle.UnpicklingError("it begins otherwise")
            for _ in range(2):
                _Reader(file, note, path).load()
            described = file.tell()
            _Reader(file, note, path).load()
            for key in _Reader(file, note, path).load():
                dtype = seen[key][0]
                size = int(np.frombuffer(file.read(8), np.int64)[0])
                whole[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype)
            # The description again, now that its storages are known.
            file.seek(described)
            return _Reader(file, find, path).load()
    except (EOFError, pickle.UnpicklingError, KeyError, ValueError, IndexError) as problem:
        raise InputError(f"{path} is no whole torch file ({problem}).") from None


def _rebuild_tensor(
    storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if offset < 0 or any(s < 0 for s in stride) or (0 not in size and last >= storage.size):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    strides = tuple(s * storage.itemsize for s in stride)
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return np.array(view)


def _rebuild_parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


class _Storage:
    """Stands for a storage class such as torch.FloatStorage."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)


class _Reader(pickle.Unpickler):
    """An unpickler that knows tensors alone; `read` gives a storage by key, type and length."""

    def __init__(
        self, file: io.BufferedIOBase, read: Callable[[str, np.dtype, int], np.ndarray], path: Path
    ) -> None:
        super().__init__(file)
        self._read, self._path = read, path

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        known = {
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        if (module, name) not in known:
            raise InputError(
                f"{self._path} wants to call {module}.{name} while it is read; only tensors are "
                "taken from such files. Save its state dict alone."
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, storage, key, _, count, *_ = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        data = self._read(key, storage.dtype, count)
        if data.size < count:
            raise pickle.UnpicklingError(f"storage {key} is truncated")
        return data


def write_state_dict(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> Path:
    """Writes tensors as a true safetensors file, which PyTorch's users load as a state dict."""
    import safetensors.numpy

    from mae_jax.files import replacing

    with replacing(path) as beside:
        safetensors.numpy.save_file(
            {k: np.ascontiguousarray(v) for k, v in tensors.items()}, beside
        )
    return Path(path)
