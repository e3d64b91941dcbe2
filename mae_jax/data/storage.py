"""Bytes of files, from the local disk or a URL of an allowed protocol.

Reading over a network fails now and then: every read has a time limit and is retried with
back-off, and remote files can be cached on the local disk. What stays out of reach is a machine
failure (`MachineError`), not a fault of the file. Environment variables configure it all, since
worker processes and the jobs of a fleet inherit them:

  MAE_JAX_CACHE        folder of the cache of remote files (none: no cache)
  MAE_JAX_CACHE_GB     the cache's maximum size (50)
  MAE_JAX_TIMEOUT      seconds per attempt (60)
  MAE_JAX_ATTEMPTS     attempts before a file counts as out of reach (4)
  MAE_JAX_PROTOCOLS    protocols allowed besides file, s3, gs and https, separated by commas

An index is data from elsewhere: it may name only files of allowed protocols. Protocol options go
through their own variables: FSSPEC_S3_ANON=true reads public buckets, and AWS_ENDPOINT_URL names
another store that implements S3. s3:// needs the package s3fs, gs:// gcsfs. The cache on disk keeps
whole files; of Zarr arrays, which are read in parts, it keeps nothing.
"""

import errno
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mae_jax.data.image_uri import is_url
from mae_jax.errors import InputError, MachineError, redact_credentials
from mae_jax.files import replacing

log = logging.getLogger(__name__)
Value = TypeVar("Value")

PROTOCOLS = ("file", "s3", "gs", "https")  # allowed without being named
_ALIASES = {"gcs": "gs", "s3a": "s3", "local": "file"}
MAX_FILE_BYTES = 2**32
# Failures of a disk, a network file system or the process's limits, which may pass.
_TRANSIENT = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY,
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ECONNRESET,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.ENODEV, errno.EREMOTEIO,
}  # fmt: skip
_folders_read: set[str] = set()  # folders that this process has read files of, with their parents


@dataclass(frozen=True)
class Remote:
    """How remote files are read; see the module's docstring."""

    cache: str | None = None
    cache_bytes: int = 50 * 10**9
    timeout: float = 60.0
    attempts: int = 4
    pause: float = 0.5  # seconds before the second attempt; doubles each time

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Remote":
        """The settings of the environment variables.

        Raises:
          InputError: one of them is not a number.
        """
        try:
            return cls(
                cache=environment.get("MAE_JAX_CACHE") or None,
                cache_bytes=int(float(environment.get("MAE_JAX_CACHE_GB", "50")) * 1e9),
                timeout=float(environment.get("MAE_JAX_TIMEOUT", "60")),
                attempts=max(1, int(environment.get("MAE_JAX_ATTEMPTS", "4"))),
            )
        except ValueError as error:
            raise InputError(f"a variable MAE_JAX_* is not a number: {error}.") from None


def check_protocol(path: str) -> None:
    """Checks that a path or URL has an allowed protocol.

    Raises:
      InputError: it has another one.
    """
    if not is_url(path):
        return
    more = os.environ.get("MAE_JAX_PROTOCOLS", "").split(",")
    allowed = {*PROTOCOLS, *(name.strip().lower() for name in more if name.strip())}
    for link in path.split("::"):  # fsspec chains protocols: zip://a.png::https://…
        name = link.partition("://")[0].lower()
        if "://" in link and _ALIASES.get(name, name) not in allowed:
            raise InputError(
                f"{redact_credentials(path)} has the protocol {name}, which is not allowed "
                f"(allowed are {', '.join(sorted(allowed))}); set MAE_JAX_PROTOCOLS={name} "
                f"(or `mae-jax index --allow-protocols {name}`) if you trust the index."
            )


def read_bytes(path: str) -> bytes:
    """The whole content of a local file or URL.

    Raises:
      InputError: it is missing, is no regular file or may not be read; the message names it.
      MachineError: it is out of reach, after several attempts.
    """
    check_protocol(path)
    remote = Remote.from_environment()
    if is_url(path):
        return read_remote(path, remote)
    for attempt in range(remote.attempts):
        if attempt:
            time.sleep(remote.pause * 2 ** (attempt - 1))
        try:
            content = _read_local(path)
        except OSError as error:
            number = error.errno or errno.EIO
            if number not in _TRANSIENT and not (number == errno.ENOENT and _folder_vanished(path)):
                raise _local_error(path, number) from None
            cause = os.strerror(number)
            log.info("attempt %d at %s failed: %s", attempt + 1, path, cause)
        else:
            _remember_folder(os.path.dirname(path))
            return content
    raise MachineError(f"{path} is out of reach after {remote.attempts} attempts ({cause}).")


def _read_local(path: str) -> bytes:
    # Without O_NONBLOCK the opening of a named pipe would wait for a writer, maybe for ever.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is a device, pipe or socket, not a regular file.")
        if status.st_size > MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {status.st_size / 2**30:.1f} GiB, more than an image file may have "
                f"({MAX_FILE_BYTES / 2**30:.0f} GiB); convert it with another tool."
            )
        return file.read()


def _local_error(path: str, number: int) -> InputError:
    if number == errno.ENOENT:
        return InputError(f"{path} does not exist.")
    if number == errno.EISDIR:
        return InputError(f"{path} is a folder, not a file.")
    return InputError(f"{path} cannot be read ({os.strerror(number)}).")


def _remember_folder(folder: str) -> None:
    while folder and folder not in _folders_read:
        _folders_read.add(folder)
        folder = os.path.dirname(folder)


def _folder_vanished(path: str) -> bool:
    """Whether a folder above the file was read before and is gone now, as if unmounted."""
    folder = os.path.dirname(path)
    while folder and folder != os.path.dirname(folder):
        if folder in _folders_read and not os.path.isdir(folder):
            return True
        folder = os.path.dirname(folder)
    return False


def read_remote(url: str, remote: Remote) -> bytes:
    """The whole content of a URL, from the local cache where it is there.

    Raises:
      InputError: it is missing or may not be read, or its protocol needs a package that is not
        installed.
      MachineError: every attempt has failed.
    """
    cached = Path(remote.cache) / _key(url) if remote.cache else None
    if cached is not None and cached.exists():
        os.utime(cached)  # the oldest are evicted first
        return cached.read_bytes()
    content = with_retries(lambda: _fetch(url), url, remote)
    if cached is not None and remote.cache is not None:
        try:
            with replacing(cached) as tmp_path:
                tmp_path.write_bytes(content)
            _evict(Path(remote.cache), remote.cache_bytes)
        except OSError as error:
            raise MachineError(
                f"the cache {remote.cache} cannot be written ({error.strerror}); free space in it, "
                "or unset MAE_JAX_CACHE."
            ) from None
    return content


def with_retries(work: Callable[[], Value], name: str, remote: Remote) -> Value:
    """The result of `work`, retried with back-off, each attempt for up to `remote.timeout` seconds.

    Raises:
      InputError: the thing named `name` is missing or may not be read (not retried).
      MachineError: every attempt failed.
    """
    shown = redact_credentials(name)
    last: BaseException | None = None
    for attempt in range(remote.attempts):
        if attempt:
            time.sleep(remote.pause * 2 ** (attempt - 1))
        try:
            return _within(remote.timeout, work)
        except FileNotFoundError as error:
            if not _out_of_reach(error.__cause__ or error.__context__):
                raise InputError(f"{shown} does not exist.") from None
            last = error.__cause__ or error.__context__
        except PermissionError as error:
            raise InputError(f"{shown} may not be read ({reason(error)}).") from None
        except (ImportError, ValueError) as error:  # no such protocol, or its package is missing
            raise InputError(
                f"{shown} cannot be opened: {redact_credentials(str(error))}"
            ) from None
        except Exception as error:  # each protocol has exceptions of its own
            status = getattr(error, "status", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
                raise InputError(f"{shown} may not be read (HTTP status {status}).") from None
            last = error
            log.info("attempt %d at %s failed: %s", attempt + 1, shown, reason(error))
    raise MachineError(
        f"{shown} is out of reach after {remote.attempts} attempts ({reason(last)})."
    )


def _out_of_reach(cause: BaseException | None) -> bool:
    """Whether the cause of fsspec's FileNotFoundError is a connection that failed, not the file."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in (408, 425, 429)
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def list_remote(root: str) -> list[str]:
    """Paths below a remote folder, relative to it, sorted.

    Raises:
      InputError: the folder is missing or may not be listed.
      MachineError: every attempt has failed.
    """
    check_protocol(root)

    def listing() -> list[str]:
        import fsspec

        system, inside = fsspec.core.url_to_fs(root)
        inside = inside.rstrip("/")
        paths = system.find(inside)
        return sorted(path[len(inside) :].lstrip("/") for path in paths)

    return with_retries(listing, root, Remote.from_environment())


def list_names(root: str) -> list[str]:
    """Names of the files and folders in a local folder or URL, sorted; nothing below is listed.

    Raises:
      InputError: `root` is missing or may not be listed.
      MachineError: it is out of reach, after several attempts.
    """
    check_protocol(root)
    if not is_url(root):
        if not os.path.isdir(root):
            raise InputError(f"{root} is not a folder.")
        return sorted(os.listdir(root))

    def listing() -> list[str]:
        import fsspec

        system, inside = fsspec.core.url_to_fs(root)
        paths = system.ls(inside.rstrip("/"), detail=False)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    return with_retries(listing, root, Remote.from_environment())


def list_folder(root: str) -> list[str]:
    """Paths of all files below a local folder or URL, with '/', sorted; local hidden ones left out.

    Raises:
      InputError: `root` is not a folder, or may not be listed.
      MachineError: it is out of reach, after several attempts.
    """
    if is_url(root):
        return list_remote(root)
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder.")
    paths: list[str] = []
    visited: set[tuple[int, int]] = set()  # links may lead in circles
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        paths.extend(prefix + name for name in files if not name.startswith("."))
    return sorted(paths)


def exists(path: str) -> bool:
    """Whether a local file or URL exists."""
    check_protocol(path)
    if not is_url(path):
        return os.path.exists(path)

    def check() -> bool:
        import fsspec

        system, inside = fsspec.core.url_to_fs(path)
        return bool(system.exists(inside))

    return with_retries(check, path, Remote.from_environment())


def _fetch(url: str) -> bytes:
    import fsspec

    system, inside = fsspec.core.url_to_fs(url)
    size = system.size(inside)
    if size is not None and size > MAX_FILE_BYTES:
        raise ValueError(f"it has {size / 2**30:.1f} GiB, more than an image file may have.")
    return bytes(system.cat_file(inside))


def _within(seconds: float, work: Callable[[], Value]) -> Value:
    """`work()` in a thread of its own, abandoned after `seconds`: works for every protocol."""
    result: dict[str, Any] = {}

    def target() -> None:
        try:
            result["value"] = work()
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if "error" in result:
        raise result["error"]
    value: Value = result["value"]
    return value


def reason(error: BaseException | None) -> str:
    """An exception in a few words on one line, without credentials, for a sentence about it."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return f"HTTP status {status}"
    return redact_credentials(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _key(url: str) -> str:
    suffix = os.path.splitext(url.partition("?")[0])[1][:12]
    return hashlib.sha256(url.encode()).hexdigest() + suffix


def _evict(folder: Path, max_bytes: int) -> None:
    """Deletes the files read longest ago until the folder holds at most `max_bytes` bytes."""
    files = []
    for file in folder.iterdir():
        try:
            status = file.stat()
        except FileNotFoundError:  # another process has deleted it
            continue
        files.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files, key=lambda entry: entry[0]):
        if total <= max_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size
