"""The folder a job writes to, on a local disk or at any URL that fsspec knows (s3, gs, memory).

A file in it is whole or absent. Locally it is written in `.partial/` of the same folder, flushed
to disk and renamed; an object store shows an object only once all of it has arrived.
"""

import os
import posixpath
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mae_jax.errors import InputError

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BESIDE = ".partial"


class Store:
    """Files by name under one folder or URL; names use '/' and stay inside it."""

    def __init__(self, where: str | os.PathLike[str]) -> None:
        """Opens the folder `where`, which need not exist yet.

        Raises:
          InputError: `where` is a URL of a kind that needs a package which is not installed.
        """
        self.where = str(where)
        self.local: Path | None = None
        if self.where.startswith("file://"):
            self.where = self.where.removeprefix("file://")
        if not _URL.match(self.where):
            self.local = Path(self.where)
            return
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.where)
        except (ImportError, ValueError) as problem:
            raise InputError(f"{self.where} cannot be written to: {problem}.") from None

    def __str__(self) -> str:
        return self.where

    def path(self, name: str) -> str:
        """The full path or URL of the file `name`."""
        if self.local is not None:
            return str(self.local / name)
        return posixpath.join(self.where, name)

    def _remote(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.local is not None:
            return (self.local / name).exists()
        return bool(self._fs.exists(self._remote(name)))

    def names(self, folder: str) -> list[str]:
        """The sorted names of the files in the sub-folder `folder` ([] where there is none)."""
        if self.local is not None:
            try:
                found = os.listdir(self.local / folder)
            except (FileNotFoundError, NotADirectoryError):
                found = []
        else:
            self._fs.invalidate_cache()  # another shard may have written since
            try:
                found = [posixpath.basename(p) for p in self._fs.ls(self._remote(folder), False)]
            except FileNotFoundError:
                found = []
        return sorted(name for name in found if name and not name.startswith("."))

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises:
          InputError: there is no such file.
        """
        try:
            if self.local is not None:
                return (self.local / name).read_bytes()
            return bytes(self._fs.cat_file(self._remote(name)))
        except FileNotFoundError:
            raise InputError(f"{self.path(name)} does not exist.") from None

    def write(self, name: str, content: bytes) -> None:
        """Puts `content` at `name`, whole or not at all, replacing what stood there."""
        if self.local is None:
            self._fs.pipe_file(self._remote(name), content)
            return
        beside = self._beside(name)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.adopt(beside, name)

    def create(self, name: str, content: bytes) -> bool:
        """Puts `content` at `name` unless there is a file already; says whether it did.

        Of several processes on one local disk only one succeeds. An object store has no such
        promise: who creates must read back what is there.
        """
        if self.local is None:
            if self.exists(name):
                return False
            self.write(name, content)
            return True
        beside = self._beside(name)
        beside.write_bytes(content)
        try:
            os.link(beside, self.local / name)
        except FileExistsError:
            return False
        except OSError:  # a disk without hard links; then as on an object store
            if self.exists(name):
                return False
            self.write(name, content)
        finally:
            beside.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        """Removes the file `name`, if it is there."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
        elif self.exists(name):
            self._fs.rm_file(self._remote(name))

    def scratch(self, name: str) -> Path:
        """A local path at which to build a large file before `adopt` puts it at `name`."""
        if self.local is not None:
            return self._beside(name)
        import tempfile

        folder = Path(tempfile.gettempdir())
        return folder / f"mae_jax-{uuid.uuid4().hex[:8]}-{posixpath.basename(name)}"

    def adopt(self, beside: Path, name: str) -> None:
        """Moves a file made at `scratch(name)` to `name`."""
        if self.local is None:
            self._fs.put_file(str(beside), self._remote(name))
            beside.unlink()
            return
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(beside, target)
        except FileNotFoundError:
            if not target.exists():  # else another process did the same part, and swept up
                raise

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path with the content of `name`, for readers that need to seek."""
        if self.local is not None:
            yield self.local / name
            return
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / posixpath.basename(name)
            self._fs.get_file(self._remote(name), str(path))
            yield path

    def sweep(self) -> None:
        """Removes what killed processes left half-written, once all is there.

        Before that it would take the ground from under a process that is still writing.
        """
        if self.local is not None:
            for path in (self.local / _BESIDE).glob("*"):
                path.unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        assert self.local is not None
        folder = self.local / _BESIDE
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{posixpath.basename(name)}.{uuid.uuid4().hex[:8]}"
