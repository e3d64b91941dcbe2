"""Names the file that crashed a worker process.

A damaged image can crash a decoder written in C, and the process with it. Before a thread of a
worker opens an image, it writes the path to a small file of its own; the parent reads the files
that dead processes left.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_local = threading.local()
_folder: Path | None = None  # the log folder of this process; None: nothing is logged


def enable(folder: Path) -> None:
    """Logs in `folder`, from now on, which file each thread of this process has open."""
    global _folder
    _folder = folder


@contextmanager
def track_open_file(path: str) -> Iterator[None]:
    """Logs `path` as open while the body runs, if `enable` was called in this process."""
    if _folder is None:
        yield
        return
    file = getattr(_local, "file", None)
    if file is None:  # open as long as the thread lives
        name = f"{os.getpid()}-{threading.get_ident()}"
        file = _local.file = os.open(_folder / name, os.O_CREAT | os.O_WRONLY)
    _write(file, path)
    try:
        yield
    finally:  # not reached when the process crashes
        _write(file, "")


def files_open_at_crash(folder: Path) -> list[str]:
    """The paths that processes which no longer run had open when they ended."""
    paths = []
    for entry in sorted(folder.iterdir()):
        pid = int(entry.name.partition("-")[0])
        text = entry.read_bytes().decode("utf-8", "replace").strip()
        if text and not _is_running(pid):
            paths.append(text)
    return paths


def _write(file: int, text: str) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    os.ftruncate(file, 0)
    os.pwrite(file, raw, 0)


def _is_running(pid: int) -> bool:
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
