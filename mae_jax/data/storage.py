"""Bytes of files, from the local disk or any URL that fsspec knows: s3, gs, http, ….

Reading over a network fails now and then: every read is bounded in time and tried again, and what
was read can be kept on the local disk. Environment variables set it all, since worker processes
and the jobs of a fleet inherit them:

  MAE_JAX_CACHE        folder where remote files are kept (none: nothing is kept)
  MAE_JAX_CACHE_GB     the folder's greatest size (50)
  MAE_JAX_TIMEOUT      seconds that one attempt may take (60)
  MAE_JAX_ATTEMPTS     attempts before a file counts as unreadable (4)

Options of a protocol go through its own variables: FSSPEC_S3_ANON=true reads public buckets, and
AWS_ENDPOINT_URL names another store that speaks S3. s3:// needs the package s3fs, gs:// gcsfs. The
cache on disk keeps whole files; of Zarr arrays, which are read in parts, it keeps nothing.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mae_jax.data.image_uri import is_url
from mae_jax.errors import InputError
from mae_jax.files import replacing

log = logging.getLogger(__name__)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Remote:
    """How remote files are read; see the module's text."""

    cache: str | None = None
    cache_bytes: int = 50 * 10**9
    timeout: float = 60.0
    attempts: int = 4
    pause: float = 0.5  # seconds before the second attempt; doubles each time

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Remote":
        """The settings that the environment variables name.

        Raises:
          InputError: one of them is no number.
        """
        try:
            return cls(
                cache=environment.get("MAE_JAX_CACHE") or None,
                cache_bytes=int(float(environment.get("MAE_JAX_CACHE_GB", "50")) * 1e9),
                timeout=float(environment.get("MAE_JAX_TIMEOUT", "60")),
                attempts=max(1, int(environment.get("MAE_JAX_ATTEMPTS", "4"))),
            )
        except ValueError as problem:
            raise InputError(f"a setting MAE_JAX_* is no number: {problem}.") from None


def read_bytes(path: str) -> bytes:
    """The whole content of a local file or URL.

    Raises:
      InputError: it is missing or cannot be read; the message names it.
    """
    if is_url(path):
        return read_remote(path, Remote.from_environment())
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file.") from None
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({os.strerror(problem.errno or 5)}).") from None


def read_remote(url: str, remote: Remote) -> bytes:
    """The whole content of a URL, from the local cache where it is kept.

    Raises:
      InputError: it is missing, its protocol needs a package that is not installed, or every
        attempt has failed.
    """
    kept = Path(remote.cache) / _key(url) if remote.cache else None
    if kept is not None and kept.exists():
        os.utime(kept)  # the oldest are thrown out first
        return kept.read_bytes()
    content = with_retries(lambda: _fetch(url), url, remote)
    if kept is not None and remote.cache is not None:
        with replacing(kept) as beside:
            beside.write_bytes(content)
        _make_room(Path(remote.cache), remote.cache_bytes)
    return content


def with_retries(work: Callable[[], Value], name: str, remote: Remote) -> Value:
    """The result of `work`, tried several times, each for at most `remote.timeout` seconds.

    Raises:
      InputError: the thing named `name` is missing (not tried again) or every attempt failed.
    """
    problem: BaseException | None = None
    for attempt in range(remote.attempts):
        if attempt:
            time.sleep(remote.pause * 2 ** (attempt - 1))
        try:
            return _within(remote.timeout, work)
        except FileNotFoundError:
            raise InputError(f"{name} does not exist.") from None
        except (ImportError, ValueError) as error:  # no such protocol, or its package is missing
            raise InputError(f"{name} cannot be opened: {error}") from None
        except Exception as error:  # each protocol has errors of its own
            problem = error
            log.info("attempt %d at %s failed: %r", attempt + 1, name, error)
    raise InputError(f"{name} cannot be read after {remote.attempts} attempts ({problem!r}).")


def list_remote(root: str) -> list[str]:
    """Paths below a remote folder, relative to it, sorted.

    Raises:
      InputError: the folder cannot be listed.
    """
    remote = Remote.from_environment()

    def listing() -> list[str]:
        import fsspec

        system, inside = fsspec.core.url_to_fs(root)
        inside = inside.rstrip("/")
        found = system.find(inside)
        return sorted(path[len(inside) :].lstrip("/") for path in found)

    return with_retries(listing, root, remote)


def exists(path: str) -> bool:
    """Whether a local file or URL is there."""
    if not is_url(path):
        return os.path.exists(path)
    import fsspec

    system, inside = fsspec.core.url_to_fs(path)
    return with_retries(lambda: bool(system.exists(inside)), path, Remote.from_environment())


def _fetch(url: str) -> bytes:
    import fsspec

    system, inside = fsspec.core.url_to_fs(url)
    return bytes(system.cat_file(inside))


def _within(seconds: float, work: Callable[[], Value]) -> Value:
    """`work()` in a thread of its own, given up after `seconds`: works for every protocol."""
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


def _key(url: str) -> str:
    suffix = os.path.splitext(url.partition("?")[0])[1][:12]
    return hashlib.sha256(url.encode()).hexdigest() + suffix


def _make_room(folder: Path, most: int) -> None:
    """Throws out the files read longest ago until the folder holds at most `most` bytes."""
    files = []
    for file in folder.iterdir():
        try:
            state = file.stat()
        except FileNotFoundError:  # another process has thrown it out
            continue
        files.append((state.st_mtime, state.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files, key=lambda entry: entry[0]):
        if total <= most:
            return
        file.unlink(missing_ok=True)
        total -= size
