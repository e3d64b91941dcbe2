"""Naming the file that has killed a worker process.

A broken image can crash a decoder written in C, and the process with it. Before a thread of a
worker opens an image it notes the path in a small file of its own; the parent reads the notes of
the dead.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_local = threading.local()
_folder: Path | None = None  # where this process keeps its notes; None: it keeps none


def keep_notes(folder: Path) -> None:
    """From now on, notes in `folder` what each thread of this process is reading."""
    global _folder
    _folder = folder


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Notes `path` while the body runs, where notes are kept."""
    if _folder is None:
        yield
        return
    note = getattr(_local, "note", None)
    if note is None:  # open as long as the thread lives
        name = f"{os.getpid()}-{threading.get_ident()}"
        note = _local.note = os.open(_folder / name, os.O_CREAT | os.O_WRONLY)
    _write(note, path)
    try:
        yield
    finally:  # which a process that crashes does not reach
        _write(note, "")


def left_notes(folder: Path) -> list[str]:
    """The paths that processes which are gone were reading when they ended."""
    found = []
    for note in sorted(folder.iterdir()):
        pid = int(note.name.partition("-")[0])
        text = note.read_bytes().decode("utf-8", "replace").strip()
        if text and not _alive(pid):
            found.append(text)
    return found


def _write(file: int, text: str) -> None:
    raw = text.encode()
    os.ftruncate(file, 0)
    os.pwrite(file, raw, 0)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not Path("/proc/self").exists()
