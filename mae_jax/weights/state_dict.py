"""PyTorch state dicts: read from torch or safetensors files, written as safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.errors import InputError
from mae_jax.files import replacing
from mae_jax.weights.safetensors_file import (
    read_header,
    read_safetensors,
    regular_file_size,
    write_safetensors,
)
from mae_jax.weights.torch_pickle import (
    TensorView,
    TorchFile,
    read_torch_legacy,
    read_torch_zip,
)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the tensors of a torch or safetensors file by name.

    The format is detected from magic bytes, not from the suffix. In torch files, a dict under
    "state_dict", "model_state_dict", "model", "teacher" or "student" is taken for the state dict.
    Memory is bounded by 4 times the file's size plus 64 MiB.

    Raises:
      InputError: the file is missing, damaged or in another format, or its pickle holds more
        than tensors.
    """
    path = Path(path)
    magic = _magic(path)
    if magic == b"PK":
        return _tensors(read_torch_zip(path))
    if magic == b"\x80\x02":
        return _tensors(read_torch_legacy(path))
    return read_safetensors(path)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file; {} for a torch file.

    Raises:
      InputError: the file is missing or damaged.
    """
    if _magic(Path(path)) in (b"PK", b"\x80\x02"):
        return {}
    return read_header(path).metadata


def write_state_dict(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a state dict as a safetensors file, whole or not at all."""
    with replacing(path) as tmp_path:
        write_safetensors(tmp_path, tensors, {"format": "pt", **(metadata or {})})
    return Path(path)


def _magic(path: Path) -> bytes:
    regular_file_size(path)
    with path.open("rb") as file:
        return file.read(2)


def _tensors(file: TorchFile) -> dict[str, np.ndarray]:
    content: Any = file.content
    for key in ("state_dict", "model_state_dict", "model", "teacher", "student"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise InputError(f"{file.path} holds a {type(content).__name__}, not a state dict.")
    views = {str(k): v for k, v in content.items() if isinstance(v, TensorView)}
    if not views:
        raise InputError(f"{file.path} holds no tensors at its top level or under 'state_dict'.")
    return file.materialize(views)
