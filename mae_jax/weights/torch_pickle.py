"""PyTorch's file formats, read without PyTorch and without unpickling.

A torch file is a zip of one pickle, which describes the tensors, and one raw file per storage;
before version 1.6 it was a sequence of pickles followed by the storages, as torchvision's older
ImageNet checkpoints still are. A pickle is a program that can call anything. Here it is not run:
a small interpreter follows its opcodes, knows by name the few constructors that a state dict
needs, and refuses every other.

Sizes are judged before memory is taken. A pickle has at most 64 MiB and 2 million opcodes;
storages are uncompressed, as PyTorch writes them, and no larger than the file; tensors are views
until `materialize` has compared their sum with 4 times the file's size plus 64 MiB.
"""

import dataclasses
import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import ml_dtypes
import numpy as np

from mae_jax.errors import InputError
from mae_jax.weights.safetensors_file import first_line, regular_file_size

Instance = TypeVar("Instance")

MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 2_000_000
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files from before version 1.6
_STORAGES: dict[str, type] = {
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


class MalformedPickleError(ValueError):
    """A pickle, or what it describes, contradicts itself or the file."""


@dataclasses.dataclass(frozen=True)
class StorageRef:
    """A reference to a storage: its key in the file, dtype and number of elements."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class TensorView:
    """A tensor as the pickle describes it: a strided view of a storage, in elements."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The size of the tensor in memory, in bytes."""
        return math.prod(self.shape) * self.storage.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file's pickle describes, and how to read its storages."""

    path: Path
    content: Any
    read_storage: Callable[[StorageRef], np.ndarray]

    def materialize(self, tensors: dict[str, TensorView]) -> dict[str, np.ndarray]:
        """Read tensors into arrays.

        Raises:
          InputError: together they are too large for the file, or a storage is damaged.
        """
        limit = 4 * self.path.stat().st_size + 64 * 2**20
        total = sum(tensor.nbytes for tensor in tensors.values())
        if total > limit:
            raise InputError(
                f"{self.path} describes tensors of {total:,} bytes, over the limit of {limit:,} "
                "for a file of its size; save it again without expanded tensors."
            )
        storages: dict[str, np.ndarray] = {}
        arrays = {}
        with _one_sentence(self.path):
            for name, tensor in tensors.items():
                if tensor.storage.key not in storages:
                    storages[tensor.storage.key] = self.read_storage(tensor.storage)
                arrays[name] = _strided(storages[tensor.storage.key], tensor)
        return arrays


def read_torch_zip(path: Path) -> TorchFile:
    """Read the pickle of a torch file of version 1.6 or later.

    Raises:
      InputError: another zip, a damaged file, or a pickle that holds more than tensors.
    """
    with _one_sentence(path):
        size = regular_file_size(path)
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InputError(f"{path} is a zip file without a PyTorch state dict (data.pkl).")
            root = pickles[0].removesuffix("data.pkl")
            if sum(info.file_size for info in entries.values()) > size:
                raise MalformedPickleError("its entries claim more bytes than the file has")
            if f"{root}byteorder" in entries:
                order = _stored(archive, entries[f"{root}byteorder"])
                if order != b"little":
                    raise InputError(
                        f"{path} is {order.decode('ascii', 'replace')[:20]}-endian; save it again "
                        "on a little-endian machine."
                    )
            content = _interpret(_stored(archive, entries[pickles[0]]), path)

    def read(storage: StorageRef) -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            data = _stored(archive, entries[f"{root}data/{storage.key}"])
        return np.frombuffer(data, storage.dtype, len(data) // storage.dtype.itemsize)

    return TorchFile(path, content, read)


def read_torch_legacy(path: Path) -> TorchFile:
    """Read the pickles of a torch file from before version 1.6.

    It holds a magic number, the protocol, system information, the object, the keys of its
    storages, and then for each its number of elements (int64) and its bytes.

    Raises:
      InputError: a damaged file, or a pickle that holds more than tensors.
    """
    regions: dict[str, tuple[int, int]] = {}
    with _one_sentence(path):
        size = regular_file_size(path)
        with path.open("rb") as file:
            if _interpret_next(file, path) != _MAGIC:
                raise MalformedPickleError("it does not begin with PyTorch's magic number")
            for _ in range(2):
                _interpret_next(file, path)
            references: dict[str, StorageRef] = {}
            content = _interpret_next(file, path, references)
            for key in _interpret_next(file, path):
                itemsize = references[key].dtype.itemsize
                count = int.from_bytes(file.read(8), "little")
                start = file.tell()
                if start + count * itemsize > size:
                    raise MalformedPickleError(f"storage {key} is truncated")
                regions[key] = (start, count)
                file.seek(start + count * itemsize)

    def read(storage: StorageRef) -> np.ndarray:
        start, count = regions[storage.key]
        with path.open("rb") as file:
            file.seek(start)
            return np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)

    return TorchFile(path, content, read)


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turn whatever a malformed file raises into one InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as problem:
        raise InputError(
            f"{path} is not a whole torch file ({first_line(problem)}); copy or download it again."
        ) from None


def _stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type != zipfile.ZIP_STORED:
        raise MalformedPickleError(f"{info.filename} is compressed, which PyTorch never does")
    return archive.read(info)


def _strided(storage: np.ndarray, tensor: TensorView) -> np.ndarray:
    """Return a contiguous copy of a view, after checking that it stays within its storage."""
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((n - 1) * s for n, s in steps)
    if storage.size < tensor.storage.count:
        raise MalformedPickleError(f"storage {tensor.storage.key} is truncated")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, storage.dtype)
    if last >= storage.size:
        raise MalformedPickleError("a tensor reaches beyond its storage")
    strides = tuple(s * storage.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.array(view)


@dataclasses.dataclass(frozen=True)
class _Global:
    """A constructor that a pickle names, never the object itself."""

    name: str


_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_ORDERED_DICT = "collections.OrderedDict"
_MARK = object()


def _interpret_next(
    file: IO[bytes], path: Path, references: dict[str, StorageRef] | None = None
) -> Any:
    """Interpret the pickle at the file's position and move behind it."""
    return _Interpreter(path, references).run(pickletools.genops(file))


def _interpret(data: bytes, path: Path) -> Any:
    if len(data) > MAX_PICKLE_BYTES:
        raise MalformedPickleError(f"its pickle has {len(data):,} bytes")
    return _Interpreter(path).run(pickletools.genops(data))


class _Interpreter:
    """Follows the opcodes of a pickle; makes dicts, lists, tuples, scalars and tensor views."""

    def __init__(self, path: Path, references: dict[str, StorageRef] | None = None) -> None:
        self._path = path
        self._references = {} if references is None else references
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._pairs = 0

    def run(self, opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
        """Return the object that the pickle describes."""
        start = None
        for count, (opcode, argument, position) in enumerate(opcodes):
            position = position or 0
            start = position if start is None else start
            if count > MAX_OPCODES or position - start > MAX_PICKLE_BYTES:
                raise MalformedPickleError("its pickle is too long")
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise MalformedPickleError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _IGNORED:
            return
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            items = self._since_mark()
            stack.append({})
            self._set_items(items)
        elif name == "APPEND":
            item = stack.pop()
            _instance(stack[-1], list).append(item)
        elif name == "APPENDS":
            items = self._since_mark()
            _instance(stack[-1], list).extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            self._set_items([key, value])
        elif name == "SETITEMS":
            self._set_items(self._since_mark())
        elif name == "POP" or name == "BUILD":
            stack.pop()
        elif name == "GLOBAL":
            stack.append(self._global(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._global(str(module), str(attribute)))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, _instance(arguments, tuple)))
        elif name == "BINPERSID":
            stack.append(self._storage(_instance(stack.pop(), tuple)))
        else:
            raise MalformedPickleError(f"its pickle has the opcode {name}")

    def _since_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _set_items(self, items: list[Any]) -> None:
        target = _instance(self._stack[-1], dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys, such as nested tuples, could take long or overflow the stack to hash.
            if not isinstance(key, str | int):
                raise MalformedPickleError("a key of its dicts is neither text nor a number")
            target[key] = value

    def _global(self, module: str, name: str) -> _Global:
        full = f"{module}.{name}"
        storage = module == "torch" and name in _STORAGES
        if not storage and full not in (*_TENSORS, _PARAMETER, _ORDERED_DICT):
            raise InputError(
                f"{self._path} wants to call {full[:100]} while it is read; only tensors are "
                "taken from such files. Save its state dict alone."
            )
        return _Global(full)

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        name = _instance(function, _Global).name
        if name == _ORDERED_DICT:
            return self._ordered_dict(*arguments)
        if name in _TENSORS:
            storage, offset, shape, strides = arguments[:4]
            sizes = [offset, *_instance(shape, tuple), *_instance(strides, tuple)]
            if not all(type(n) is int and 0 <= n < 2**48 for n in sizes) or len(shape) > 32:
                raise MalformedPickleError("a tensor has an impossible shape")
            if len(shape) != len(strides):
                raise MalformedPickleError("a tensor has more sizes than strides")
            return TensorView(_instance(storage, StorageRef), offset, shape, strides)
        if name == _PARAMETER:
            return _instance(arguments[0], TensorView)
        raise MalformedPickleError(f"its pickle calls the class {name}")

    def _ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        """Make a dict of [key, value] pairs, as Python 2 wrote them."""
        self._pairs += len(items)
        if self._pairs > MAX_OPCODES:
            raise MalformedPickleError("its pickle repeats its dicts")
        self._stack.append({})
        self._set_items([value for pair in items for value in pair])
        return _instance(self._stack.pop(), dict)

    def _storage(self, pid: tuple[Any, ...]) -> StorageRef:
        tag, storage, key, _, count, *_rest = pid
        if tag != "storage":
            raise MalformedPickleError(f"unknown reference {str(tag)[:50]!r}")
        dtype = _STORAGES[_instance(storage, _Global).name.removeprefix("torch.")]
        reference = StorageRef(_instance(key, str), np.dtype(dtype), _instance(count, int))
        known = self._references.setdefault(reference.key, reference)
        if known.dtype != reference.dtype:
            raise MalformedPickleError(f"storage {key} has two dtypes")
        return reference


def _instance(value: Any, expected: type[Instance]) -> Instance:
    if not isinstance(value, expected):
        raise MalformedPickleError(
            f"its pickle has a {type(value).__name__} in place of a {expected.__name__}"
        )
    return value


_IGNORED = {"PROTO", "FRAME"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
