"""Downloads of many files: resumed, verified, retried, and never half-written under their name."""

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from mae_jax.data.fetch.http import buffered, open_url, retrying, size_and_etag
from mae_jax.errors import InputError, MachineError, redact_credentials

_BLOCK = 1 << 18
_local = threading.local()  # each thread keeps the ZIP files that it has opened


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
      url: its address, or that of the ZIP file that holds it.
      path: where it goes, relative to the folder of the data set.
      size: bytes, if known.
      md5, sha256: of its content, "" if not known.
      member: its name in the ZIP file, "" if it is no member of one.
      optional: leave it out where the server does not have it.
    """

    url: str
    path: str
    size: int | None = None
    md5: str = ""
    sha256: str = ""
    member: str = ""
    optional: bool = False


def with_sizes(files: Sequence[RemoteFile], threads: int) -> tuple[list[RemoteFile], list[str]]:
    """The files with their sizes asked for where unknown, and the paths of absent optional ones.

    Raises:
      InputError: a file that is not optional is not there.
      MachineError: the server is out of reach.
    """

    def sized(file: RemoteFile) -> RemoteFile | None:
        if file.size is not None or file.member:
            return file
        try:
            size, etag = size_and_etag(file.url)
        except InputError:
            if file.optional:
                return None
            raise
        md5 = etag if len(etag) == 32 and all(c in "0123456789abcdef" for c in etag) else ""
        return replace(file, size=size, md5=file.md5 or md5)

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(sized, files))
    present = [file for file in results if file is not None]
    absent = [f.path for f, result in zip(files, results, strict=True) if result is None]
    return present, absent


def missing_files(files: Sequence[RemoteFile], folder: Path) -> list[RemoteFile]:
    """The files that are not in the folder yet, or have another size there."""
    return [file for file in files if not _is_there(file, folder / file.path)]


def _is_there(file: RemoteFile, path: Path) -> bool:
    return path.is_file() and file.size in (None, path.stat().st_size)


def download_all(
    files: Sequence[RemoteFile],
    folder: Path,
    *,
    threads: int = 8,
    progress: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Download what is missing; returns the paths of optional files that the server lacks.

    Args:
      files: what to download.
      folder: where to.
      threads: files at a time.
      progress: called with numbers of bytes as they arrive.

    Raises:
      InputError: a file is not there, or its content is not what was announced.
      MachineError: the server stays out of reach, or the disk is full.
    """
    absent: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        jobs = {pool.submit(download, file, folder, progress): file for file in files}
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except InputError as error:
                    if not (jobs[job].optional and "does not exist" in str(error)):
                        raise
                    absent.append(jobs[job].path)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sorted(absent)


def download(
    file: RemoteFile, folder: Path, progress: Callable[[int], None] = lambda count: None
) -> Path:
    """One file, verified before it gets its name; a cut transfer resumes where it stopped.

    Raises:
      InputError, MachineError: as `download_all`.
    """
    path = folder / file.path
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{redact_credentials(file.url)} has the path {file.path}, which leads out of {folder}."
        )
    if _is_there(file, path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    if file.member:
        _extract(file, partial, progress)
    else:
        for attempt in range(2):
            retrying(lambda: _transfer(file, partial, progress), file.url)
            problem = _difference(file, partial)
            if not problem:
                break
            # What was resumed may have been of another version.
            partial.unlink(missing_ok=True)
            _etag_path(partial).unlink(missing_ok=True)
            if attempt:
                raise InputError(
                    f"{redact_credentials(file.url)} is not what was announced ({problem}); "
                    "try again later, or report it to the data set's publisher."
                )
    _etag_path(partial).unlink(missing_ok=True)
    os.replace(partial, path)
    return path


def _etag_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _transfer(file: RemoteFile, partial: Path, progress: Callable[[int], None]) -> None:
    """One attempt: the rest of the file behind what has arrived, if it still is the same file."""
    start = partial.stat().st_size if partial.exists() else 0
    if file.size is not None and start >= file.size:
        if start == file.size and start:
            return
        start = 0
    headers = {}
    etag = _etag_path(partial)
    if start and etag.exists():
        headers = {"Range": f"bytes={start}-", "If-Range": etag.read_text()}
    with open_url(file.url, headers) as response:
        resumed = response.status == 206
        expected = int(response.headers.get("Content-Length") or -1)
        tag = response.headers.get("ETag")
        if tag:
            etag.write_text(tag)
        arrived = 0
        with open(partial, "ab" if resumed else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                arrived += len(block)
                progress(len(block))
    if 0 <= expected != arrived:
        raise OSError(f"{arrived} of {expected} bytes arrived")


def _difference(file: RemoteFile, path: Path) -> str:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes instead of {file.size}"
    for name, wanted in (("md5", file.md5), ("sha256", file.sha256)):
        if wanted:
            with open(path, "rb") as content:
                digest = hashlib.file_digest(content, name).hexdigest()
            if digest != wanted:
                return f"its {name} is {digest} instead of {wanted}"
    return ""


def _extract(file: RemoteFile, partial: Path, progress: Callable[[int], None]) -> None:
    archive = open_zip(file.url)
    try:
        info = archive.getinfo(file.member)
    except KeyError:
        raise InputError(
            f"{redact_credentials(file.url)} does not exist as expected: it has no {file.member}."
        ) from None
    try:
        with archive.open(info) as source, open(partial, "wb") as out:
            shutil.copyfileobj(source, out, _BLOCK)  # the checksum of the archive is verified
    except zipfile.BadZipFile as error:
        raise InputError(f"{redact_credentials(file.url)} is damaged ({error}).") from None
    progress(info.file_size)


def open_zip(url: str) -> zipfile.ZipFile:
    """A remote ZIP file, of which only the list of members and those asked for are read.

    Raises:
      InputError: it does not exist or is no ZIP file.
      MachineError: it is out of reach.
    """
    archives: dict[str, zipfile.ZipFile] = getattr(_local, "archives", {})
    if url not in archives:
        try:
            archives[url] = zipfile.ZipFile(buffered(url))
        except zipfile.BadZipFile:
            raise InputError(f"{redact_credentials(url)} is no ZIP file.") from None
        _local.archives = archives
    return archives[url]


def check_space(files: Sequence[RemoteFile], folder: Path, max_gb: float) -> int:
    """The bytes still to download.

    Raises:
      InputError: they are more than `max_gb`.
      MachineError: the disk has no room for them.
    """
    needed = sum(file.size or 0 for file in files)
    if needed > max_gb * 1e9:
        raise InputError(
            f"{needed / 1e9:,.1f} GB are to be downloaded, more than --max-gb {max_gb:g}; choose "
            "fewer plates, wells or sites, or raise it."
        )
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if needed > free - 10**8:
        raise MachineError(
            f"{folder} has {free / 1e9:,.1f} GB left, {needed / 1e9:,.1f} GB are to be downloaded; "
            "choose another folder or fewer plates."
        )
    return needed
