"""Atomic writes: files are either whole or absent."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae_jax.errors import InputError, machine_failure_message


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is renamed to `path`.

    The temporary name keeps the suffix, since many writers choose their format by it. The body
    may write a file or make a folder there. When the body raises, the temporary path is removed
    and a previous file or folder at `path` is kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        yield tmp_path
        if path.is_dir() and not tmp_path.is_dir():
            raise InputError(f"{path} is a folder; choose the name of a file.")
        if path.is_dir():  # os.replace refuses a folder that is not empty
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.old")
            os.replace(path, old)
            os.replace(tmp_path, path)
            shutil.rmtree(old)
        else:
            os.replace(tmp_path, path)
    finally:
        if tmp_path.is_dir():
            shutil.rmtree(tmp_path, ignore_errors=True)
        else:
            tmp_path.unlink(missing_ok=True)


@contextmanager
def writable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the errors of an output that cannot be written into one sentence.

    Raises:
      InputError: the path is read-only, forbidden or occupied. Errors of the machine (a full disk)
        are left as they are.
    """
    try:
        yield
    except OSError as error:
        if machine_failure_message(error) is not None:
            raise
        raise InputError(
            f"{os.fspath(path)} cannot be written ({error.strerror or error}); choose a path that "
            "can be."
        ) from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with replacing(path) as tmp_path:
        tmp_path.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    return write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
      InputError: the file is missing, is not a regular file (a pipe could be endless) or is not
        JSON.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a regular file; check the path.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    # Also text that is not UTF-8, numbers of too many digits, and endless nesting.
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not valid JSON ({problem}); replace it.") from None
