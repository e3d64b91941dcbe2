"""The folder a job writes to, on a local disk or at any URL that fsspec knows (s3, gs, memory).

A file in it is whole or absent. Locally it is written in `.partial/` of the same folder, flushed
to disk and renamed; an object store shows an object only once all of it has arrived.
"""

import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mae_jax.errors import InputError, MachineError, machine_failure_message

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_TMP = ".partial"


class OutputStore:
    """Files by name under one folder or URL; names use '/' and stay inside it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the folder `path`, which need not exist yet.

        Raises:
          InputError: `path` is a URL of a scheme whose package is not installed.
        """
        self.root = str(path)
        self.local: Path | None = None
        if self.root.startswith("file://"):
            self.root = self.root.removeprefix("file://")
        if not _URL.match(self.root):
            self.local = Path(self.root)
            return
        import fsspec

        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise InputError(f"{self.root} cannot be opened: {error}.") from None

    def __str__(self) -> str:
        return self.root

    def full_path(self, name: str) -> str:
        """The full path or URL of the file `name`."""
        if self.local is not None:
            return str(self.local / name)
        return posixpath.join(self.root, name)

    def _remote(self, name: str) -> str:
        return posixpath.join(self._root, name)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        with self._errors(name, "read"):
            if self.local is not None:
                return (self.local / name).exists()
            return bool(self._fs.exists(self._remote(name)))

    def list_names(self, folder: str) -> list[str]:
        """The sorted names of the files in the sub-folder `folder` ([] if it does not exist)."""
        with self._errors(folder, "read"):
            try:
                if self.local is not None:
                    names = os.listdir(self.local / folder)
                else:
                    self._fs.invalidate_cache()  # another task may have written since
                    listing = self._fs.ls(self._remote(folder), False)
                    names = [posixpath.basename(path) for path in listing]
            except (FileNotFoundError, NotADirectoryError):
                names = []
        return sorted(name for name in names if name and not name.startswith("."))

    def read(self, name: str) -> bytes:
        """The content of the file `name`.

        Raises:
          InputError: the file does not exist or cannot be read.
        """
        with self._errors(name, "read"):
            if self.local is not None:
                return (self.local / name).read_bytes()
            return bytes(self._fs.cat_file(self._remote(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write `content` at `name`, whole or not at all, replacing an existing file.

        Raises:
          InputError: the folder cannot be written to.
          MachineError: the disk is full or fails.
        """
        if self.local is None:
            with self._errors(name, "written"):
                self._fs.pipe_file(self._remote(name), content)
            return
        path = self.tmp_path(name)
        try:
            with self._errors(name, "written"), open(path, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except (InputError, MachineError):
            path.unlink(missing_ok=True)
            raise
        self.commit(path, name)

    def create(self, name: str, content: bytes) -> bool:
        """Write `content` at `name` unless the file exists; returns whether it was written.

        Of several processes on one local disk only one succeeds. An object store has no such
        guarantee: read back which content won.
        """
        if self.exists(name):
            return False
        if self.local is None:
            self.write(name, content)
            return True
        path = self.tmp_path(name)
        try:
            with self._errors(name, "written"):
                path.write_bytes(content)
            os.link(path, self.local / name)
        except FileExistsError:
            return False
        except OSError:  # a disk without hard links; then as on an object store
            if self.exists(name):
                return False
            self.write(name, content)
        finally:
            path.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        """Remove the file `name`, if it exists."""
        with self._errors(name, "removed"):
            if self.local is not None:
                (self.local / name).unlink(missing_ok=True)
            elif self.exists(name):
                self._fs.rm_file(self._remote(name))

    def delete_all(self) -> None:
        """Remove the folder with all that is in it, if it exists."""
        with self._errors("", "removed"):
            if self.local is not None:
                if self.local.exists():
                    shutil.rmtree(self.local)
            elif self._fs.exists(self._root):
                self._fs.rm(self._root, recursive=True)

    def move(self, name: str, new_name: str) -> None:
        """Rename the file `name`; does nothing if another process has moved it already."""
        with self._errors(name, "moved"):
            try:
                if self.local is not None:
                    target = self.local / new_name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(self.local / name, target)
                else:
                    self._fs.mv(self._remote(name), self._remote(new_name))
            except FileNotFoundError:
                return

    def tmp_path(self, name: str) -> Path:
        """A local path at which to build a file before `commit` moves it to `name`."""
        if self.local is None:
            prefix = f"mae_jax-{uuid.uuid4().hex[:8]}-"
            return Path(tempfile.gettempdir()) / (prefix + posixpath.basename(name))
        folder = self.local / _TMP
        with self._errors("", "written to"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{posixpath.basename(name)}.{uuid.uuid4().hex[:8]}"

    def commit(self, path: Path, name: str) -> None:
        """Move a file that was built at `tmp_path(name)` to `name`."""
        with self._errors(name, "written"):
            if self.local is None:
                self._fs.put_file(str(path), self._remote(name))
                path.unlink()
                return
            target = self.local / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(path, target)
            except FileNotFoundError:
                if not target.exists():  # else another process wrote the same file and cleaned up
                    raise

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """A local path with the content of `name`, for readers that need to seek."""
        if self.local is not None:
            yield self.local / name
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / posixpath.basename(name)
            with self._errors(name, "read"):
                self._fs.get_file(self._remote(name), str(path))
            yield path

    def clean_tmp(self) -> None:
        """Remove the half-written files of killed processes, once the job is complete.

        Before that it could remove the file that another process is still writing.
        """
        if self.local is not None:
            for path in (self.local / _TMP).glob("*"):
                path.unlink(missing_ok=True)

    def remove_tmp_folder(self) -> None:
        """Remove the folder of temporary files if it is empty."""
        if self.local is not None:
            with suppress(OSError):
                (self.local / _TMP).rmdir()

    @contextmanager
    def _errors(self, name: str, verb: str) -> Iterator[None]:
        """Turn an OSError into one sentence: the caller's folder or a machine failure."""
        try:
            yield
        except FileNotFoundError:
            if verb == "written":  # the folder vanished while the job was running
                raise MachineError(
                    f"{self.full_path(name)} cannot be written: its folder has been removed."
                ) from None
            if verb == "written to":
                raise InputError(f"{self} cannot be created; choose another folder.") from None
            raise InputError(f"{self.full_path(name)} does not exist.") from None
        except OSError as error:
            failure = machine_failure_message(error)
            reason = error.strerror or failure or str(error) or type(error).__name__
            message = f"{self.full_path(name)} cannot be {verb}: {reason.rstrip('.')}"
            if failure is None and error.errno is not None:  # local: the path or its permissions
                raise InputError(f"{message}; check its permissions or choose another.") from None
            raise MachineError(f"{message}; run the same command again later.") from None
