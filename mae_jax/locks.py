"""A lock on a folder that survives crashes, on local disks, NFS and object stores.

A lock is a lease: a small file that its holder rewrites ("heartbeat") every few seconds. Leases are
numbered, and the highest number counts. A lease is taken by creating the next number exclusively,
which file systems (O_EXCL, link) and object stores (conditional put) do atomically, so one process
alone succeeds; a lease is given up by marking it released, and lower numbers are deleted by the
next holder.

A holder that crashed is recognized without comparing clocks of two machines: whoever waits must
see the lease unchanged for its time to live, by the waiter's own monotonic clock. A crashed process
of the same machine is recognized at once by its process number and start time.
"""

import abc
import errno
import json
import os
import re
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mae_jax.errors import InputError, MachineError

HEARTBEAT = 5.0  # seconds between two heartbeats
BEATS_TO_LIVE = 6  # heartbeats that a live holder may miss


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Attributes:
      id: of this lease; no two are alike.
      host, pid: for messages.
      machine: kernel boot and process namespace: where equal, `pid` names the same process.
      started: start time of the process, in clock ticks since boot.
      beat: number of heartbeats so far.
      time_to_live: seconds without a heartbeat after which the lease may be taken over.
      released: whether the holder gave the lease up.
    """

    id: str
    host: str
    pid: int
    machine: str
    started: int
    beat: int
    time_to_live: float
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """A lease that this process holds; `check` raises when it no longer does."""

    def __init__(self, store: "Store", number: int, holder: Holder) -> None:
        self._store, self._number, self._holder = store, number, holder
        self._stop = threading.Event()
        self._taken_by: Holder | None = None
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if another process has taken the lease over.

        Raises:
          MachineError: this process was suspended or cut off for longer than the lease lives.
        """
        if self._taken_by is not None:
            raise MachineError(
                f"{self._store}: this process did not renew its lock in time, and "
                f"{self._taken_by} has taken it over; only one process may continue; "
                "stop this one."
            )

    def _beat(self) -> None:
        interval = self._holder.time_to_live / BEATS_TO_LIVE
        while not self._stop.wait(interval):
            # Storage that is out of reach for a moment is tried again at the next beat.
            with suppress(OSError):
                newest = max(self._store.numbers(), default=0)
                if newest > self._number:
                    self._taken_by = self._store.read(newest)
                    if self._taken_by is not None:
                        return
                self._holder = replace(self._holder, beat=self._holder.beat + 1)
                self._store.write(self._number, self._holder)

    def release(self) -> None:
        """Give the lease up."""
        self._stop.set()
        self._thread.join()
        if self._taken_by is None:
            with suppress(OSError):
                self._store.write(self._number, replace(self._holder, released=True))


@contextmanager
def hold(
    folder: str | os.PathLike[str], name: str = "run", *, heartbeat: float = HEARTBEAT
) -> Iterator[Lease]:
    """Hold the lock `name` of `folder` (a path or a URL of fsspec) for the body of the `with`.

    Args:
      heartbeat: seconds between heartbeats; a lease lives for `BEATS_TO_LIVE` of them.

    Raises:
      InputError: another process holds the lock (it is named), or the folder is not writable.
        Where the holder is on another machine, its next heartbeat is waited for.
    """
    store = open_store(folder, name)
    lease = _acquire(store, heartbeat)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(store: "Store", heartbeat: float) -> Lease:
    holder = _this_process(heartbeat * BEATS_TO_LIVE)
    while True:
        newest = max(store.numbers(), default=0)
        other = store.read(newest) if newest else None
        if newest and other is None:  # damaged, or just being written
            time.sleep(0.5)
            other = store.read(newest)
        if other is not None and not other.released:
            _wait_for_expiry(store, newest, other)
        try:
            store.create(newest + 1, holder)
        except FileExistsError:
            continue  # another process was quicker: judge its lease
        except PermissionError:
            raise InputError(f"{store} is not writable; choose another folder.") from None
        except OSError as error:
            if error.errno == errno.EROFS:
                raise InputError(f"{store} is read-only; choose another folder.") from None
            raise MachineError(f"{store} cannot be locked ({error.strerror or error}).") from error
        numbers = store.numbers()
        if max(numbers, default=0) > newest + 1:  # the listing was stale
            store.delete(newest + 1)
            continue
        for number in numbers:
            if number <= newest:
                store.delete(number)
        return Lease(store, newest + 1, holder)


def _wait_for_expiry(store: "Store", number: int, other: Holder) -> None:
    """Return once the lease of `other` is free to take; raise when it is seen alive."""
    alive = _is_alive(other)
    if alive is False:
        return
    seen, unchanged_since = other, time.monotonic()
    while alive is None:
        if time.monotonic() - unchanged_since > other.time_to_live:
            return
        time.sleep(min(1.0, other.time_to_live / 20))
        current = store.read(number)
        if current is None or current.released or max(store.numbers(), default=0) != number:
            return
        if current.beat != seen.beat or current.id != seen.id:
            alive = True
    raise InputError(f"{store} is in use by {other}; wait for it to end, or choose another folder.")


def _is_alive(holder: Holder) -> bool | None:
    """Whether a process of this machine still runs; None for one of another machine."""
    if holder.machine != _machine() or not holder.started:
        return None
    return _start_time(holder.pid) == holder.started


def _this_process(time_to_live: float) -> Holder:
    pid = os.getpid()
    return Holder(
        uuid.uuid4().hex, socket.gethostname(), pid, _machine(), _start_time(pid), 0, time_to_live
    )


def _machine() -> str:
    """Identity of this boot and process namespace; unique to this process where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return uuid.uuid4().hex


def _start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 if there is none or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


# ---- where leases are kept


class Store(abc.ABC):
    """Numbered leases of one lock."""

    @abc.abstractmethod
    def numbers(self) -> list[int]:
        """The numbers that exist."""

    @abc.abstractmethod
    def read(self, number: int) -> Holder | None:
        """The lease; None if it is missing or damaged."""

    @abc.abstractmethod
    def create(self, number: int, holder: Holder) -> None:
        """Create a lease that must not exist; raises FileExistsError if it does."""

    @abc.abstractmethod
    def write(self, number: int, holder: Holder) -> None:
        """Replace a lease."""

    @abc.abstractmethod
    def delete(self, number: int) -> None:
        """Delete a lease, if it exists."""


def open_store(folder: str | os.PathLike[str], name: str) -> Store:
    """The leases of the lock `name` in `folder`."""
    text = os.fspath(folder)
    if "://" in text:
        return RemoteStore(text, name)
    return LocalStore(Path(text), name)


def _decode(data: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _number(file: str, name: str) -> int | None:
    match = re.fullmatch(rf"{re.escape(name)}\.(\d+)", file)
    return int(match[1]) if match else None


class LocalStore(Store):
    """Leases as files in `.lock/`, on a local or network file system."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._locks, self._name = folder, folder / ".lock", name

    def __str__(self) -> str:
        return str(self._folder)

    def _path(self, number: int) -> Path:
        return self._locks / f"{self._name}.{number}"

    def numbers(self) -> list[int]:
        try:
            files = os.listdir(self._locks)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [number for file in files if (number := _number(file, self._name)) is not None]

    def read(self, number: int) -> Holder | None:
        try:
            return _decode(self._path(number).read_bytes())
        except FileNotFoundError:
            return None

    def create(self, number: int, holder: Holder) -> None:
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                f"{self._folder} is or holds a file where a folder must be; choose another folder."
            ) from None
        with self._written(holder) as tmp:
            try:
                os.link(tmp, self._path(number))  # exclusive, with content, on NFS too
                return
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                pass
        file = os.open(self._path(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(file, "wb") as stream:
            stream.write(_encode(holder))

    def write(self, number: int, holder: Holder) -> None:
        with self._written(holder) as tmp:
            os.replace(tmp, self._path(number))

    def delete(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    @contextmanager
    def _written(self, holder: Holder) -> Iterator[str]:
        # Not `files.replacing`: a folder that was deleted meanwhile must not be made again.
        descriptor, tmp = tempfile.mkstemp(prefix=f"{self._name}.tmp-", dir=self._locks)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(_encode(holder))
            yield tmp
        finally:
            with suppress(FileNotFoundError):
                os.unlink(tmp)


class RemoteStore(Store):
    """Leases as objects below `.lock/` of a URL; creation is a conditional put."""

    def __init__(self, url: str, name: str) -> None:
        import fsspec

        self._url, self._name = url.rstrip("/"), name
        # Listings must be fresh: another process may have written a moment ago.
        self._fs: Any
        self._fs, path = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        self._locks = f"{path.rstrip('/')}/.lock"

    def __str__(self) -> str:
        return self._url

    def _path(self, number: int) -> str:
        return f"{self._locks}/{self._name}.{number}"

    def numbers(self) -> list[int]:
        self._fs.invalidate_cache(self._locks)
        try:
            paths = self._fs.ls(self._locks, detail=False)
        except FileNotFoundError:
            return []
        files = [path.rpartition("/")[2] for path in paths]
        return [number for file in files if (number := _number(file, self._name)) is not None]

    def read(self, number: int) -> Holder | None:
        try:
            return _decode(self._fs.cat_file(self._path(number)))
        except FileNotFoundError:
            return None

    def create(self, number: int, holder: Holder) -> None:
        self._fs.makedirs(self._locks, exist_ok=True)
        self._fs.pipe_file(self._path(number), _encode(holder), mode="create")

    def write(self, number: int, holder: Holder) -> None:
        self._fs.pipe_file(self._path(number), _encode(holder))

    def delete(self, number: int) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(number))
