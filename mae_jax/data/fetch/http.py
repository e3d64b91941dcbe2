"""Reads over HTTP: whole, in ranges, and of the members of a remote ZIP file."""

import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPResponse
from typing import TypeVar, cast

from mae_jax.data.storage import Remote
from mae_jax.errors import InputError, MachineError, redact_credentials

Value = TypeVar("Value")
_BLOCK = 1 << 20  # bytes per read of a range
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


def open_url(
    url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> HTTPResponse:
    """The response to one request; no retry.

    Raises:
      InputError: the address does not exist or is not public (404, 403), or is refused.
      OSError: the server is out of reach or failed, which may pass.
    """
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)
    try:
        return cast(
            HTTPResponse, urllib.request.urlopen(request, timeout=Remote.from_environment().timeout)
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _RETRIED:
            raise OSError(f"status {error.code}") from None
        shown = redact_credentials(url)
        if error.code in (403, 404):
            raise InputError(
                f"{shown} does not exist or is not public (status {error.code}); check the "
                "selection, or whether the data set has moved."
            ) from None
        raise InputError(f"{shown} was refused (status {error.code}).") from None


def retrying(action: Callable[[], Value], url: str) -> Value:
    """The result of `action`, tried again with growing pauses while the network fails.

    Raises:
      InputError: as the action does.
      MachineError: every attempt failed.
    """
    remote = Remote.from_environment()
    for attempt in range(remote.attempts):
        if attempt:
            time.sleep(remote.pause * 2 ** (attempt - 1))
        try:
            return action()
        except (OSError, HTTPException) as error:  # InputError is neither
            cause = getattr(error, "reason", None) or error
    raise MachineError(
        f"{redact_credentials(url)} is out of reach after {remote.attempts} attempts ({cause}); "
        "check the network and run the same command again."
    )


def read_url(url: str) -> bytes:
    """The whole content of an address, which must be small."""

    def read() -> bytes:
        with open_url(url) as response:
            content = response.read()
            expected = response.headers.get("Content-Length")
        if expected is not None and len(content) != int(expected):
            raise OSError(f"{len(content)} of {expected} bytes arrived")
        return content

    return retrying(read, url)


def size_and_etag(url: str) -> tuple[int | None, str]:
    """The size in bytes, if the server tells it, and the ETag without quotes."""

    def head() -> tuple[int | None, str]:
        with open_url(url, method="HEAD") as response:
            size = response.headers.get("Content-Length")
            etag = response.headers.get("ETag", "").removeprefix("W/").strip('"')
            return (None if size is None else int(size)), etag

    return retrying(head, url)


class RangeFile(io.RawIOBase):
    """A remote file that is read in ranges: for Parquet tables and ZIP files of many GB."""

    def __init__(self, url: str) -> None:
        """Ask for the size.

        Raises:
          InputError: the address does not exist, or its server does not tell the size.
        """
        size, _ = size_and_etag(url)
        if size is None:
            raise InputError(f"{redact_credentials(url)} does not tell its size.")
        self.url, self.size = url, size
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; returns the new position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read the next bytes by one request."""
        count = min(len(buffer), self.size - self._position)
        if count <= 0:
            return 0
        content = self._read_range(self._position, count)
        buffer[:count] = content
        self._position += count
        return count

    def _read_range(self, start: int, count: int) -> bytes:
        def read() -> bytes:
            with open_url(self.url, {"Range": f"bytes={start}-{start + count - 1}"}) as response:
                if response.status != 206:
                    raise InputError(
                        f"{redact_credentials(self.url)}: its server sends no parts of files."
                    )
                content = response.read()
            if len(content) != count:
                raise OSError(f"{len(content)} of {count} bytes arrived")
            return content

        return retrying(read, self.url)


def buffered(url: str) -> io.BufferedReader:
    """A `RangeFile` that asks for at least a megabyte at a time."""
    return io.BufferedReader(RangeFile(url), _BLOCK)
