"""The manifest of an embeddings folder: what it was made with, so that nothing else is mixed in."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mae_jax._version import __version__
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.errors import InputError

NAME = "_manifest.json"
OLD_NAME = "manifest.json"  # of formats 1 and 2
FORMATS = {f"mae_jax embeddings {number}": number for number in (1, 2, 3)}
# Names of format 1: today's name -> the name in its files.
_FORMAT_1 = {"wells_per_shard": "part_wells", "shards": "parts"}
# Manifest keys in words, for the sentence on what differs.
_RESUMABLE_KEYS = {
    "encoder": "encoder",
    "fingerprint": "weights or architecture",
    "preprocessing": "preprocessing",
    "index": "index",
    "wells_per_shard": "number of wells per shard (--wells-per-shard)",
    "crop": "crop size",
    "pooling": "pooling",
    "block": "block",
    "channels": "channels",
    "channels_matched": "matching of channels",
    "outputs": "outputs",
    "recipe": "recipe",
    "cells": "cells (--cells)",
}


@dataclass(frozen=True)
class Manifest:
    """The description of an embedding job.

    Attributes:
      job: what the numbers depend on; two processes may write to one folder only if it is equal.
      settings: what they depend on no more than by rounding, as the first process had it.
      versions: of the packages that the first process ran with.
      counts: wells, sites and shards as planned and, once the job is complete, as done.
      created: when the first process started, in UTC.
      format: the number of the folder's format: 1 (files `parts/part-*`), 2 (`shards/shard-*`) or
        3 (`_shards/shard-*`, and one table per plate beside it).
      job_hash: the hash of `job` in the words of that format, which every shard carries.
    """

    job: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    format: int = 3
    job_hash: str = ""

    def __post_init__(self) -> None:
        if not self.job_hash:
            object.__setattr__(self, "job_hash", _hash(self._in_format(self.job)))

    @property
    def num_wells(self) -> int:
        """The number of wells of the job."""
        return int(self.counts["wells"])

    @property
    def num_shards(self) -> int:
        """The number of shards of the job."""
        return int(self.counts["shards"])

    @property
    def complete(self) -> bool:
        """Whether all shards were done and checked when the manifest was last written."""
        return bool(self.counts.get("complete", False))

    @property
    def name(self) -> str:
        """The name of the manifest's file."""
        return NAME if self.format > 2 else OLD_NAME

    def folder_name(self, name: str) -> str:
        """The name of one of the job's own files or folders, such as "shards".

        Since format 3 it begins with an underscore: readers of Parquet folders pass over such
        names, and find the tables of the plates alone.
        """
        return f"_{name}" if self.format > 2 else name

    def shard_size(self, shard: int) -> int:
        """The number of wells of one shard, embedded and skipped together."""
        size = int(self.job["wells_per_shard"])
        return min(size, self.num_wells - shard * size)

    def encode(self) -> bytes:
        """The manifest as the bytes of its file."""
        value = {
            "format": f"mae_jax embeddings {self.format}",
            "job": self._in_format(self.job),
            "job_hash": self.job_hash,
            "settings": self.settings,
            "versions": self.versions,
            "counts": self._in_format(self.counts),
            "created": self.created,
        }
        if self.format > 1:
            value["checksum"] = _hash(value)
        return (json.dumps(value, indent=2) + "\n").encode()

    def _in_format(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with the key names of the folder's format."""
        if self.format > 1:
            return dict(values)
        return {_FORMAT_1.get(key, key): value for key, value in values.items()}


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def package_versions() -> dict[str, str]:
    """The versions of the packages that the numbers are made with."""
    versions = {"mae_jax": __version__, "python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", "numpy", "tifffile", "imagecodecs"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def utc_now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def delete_embeddings(folder: str | os.PathLike[str]) -> None:
    """Remove an embeddings folder, so that its job starts anew; nothing if it does not exist.

    Raises:
      InputError: the folder holds something else.
    """
    store = OutputStore(folder)
    if manifest_name(store) is not None:
        store.delete_all()
    elif store.list_names(""):
        raise InputError(
            f"{store} holds no embeddings, so that it is not overwritten; choose another folder."
        )


def manifest_name(store: OutputStore) -> str | None:
    """The name of the manifest's file in the folder; None: it has none."""
    return next((name for name in (NAME, OLD_NAME) if store.exists(name)), None)


def read_manifest(store: OutputStore) -> Manifest:
    """Read the manifest of an embeddings folder.

    Raises:
      InputError: the folder has none, or one that is damaged or of another format.
    """
    name = manifest_name(store)
    if name is None:
        raise InputError(
            f"{store} is not an embeddings folder: it has no {NAME}; give a folder that "
            "`mae-jax embed` wrote."
        )
    path = store.full_path(name)
    try:
        return _decode(json.loads(store.read(name)), path)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is damaged ({reason}); embed into another folder.") from None


def _decode(value: Any, path: str) -> Manifest:
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if value["format"] not in FORMATS:
        known = "' or '".join(FORMATS)
        raise InputError(
            f"{path} has the format '{value['format']}'; this version reads '{known}'."
        )
    number = FORMATS[value["format"]]
    for key in ("job", "settings", "versions", "counts"):
        if not isinstance(value[key], dict):
            raise ValueError(f"'{key}' is not an object")
    if _hash(value["job"]) != value["job_hash"]:
        raise ValueError("'job' does not match its hash")
    if number > 1:
        content = {key: item for key, item in value.items() if key != "checksum"}
        if value["checksum"] != _hash(content):
            raise ValueError("its content does not match its checksum")
    today = {old: new for new, old in _FORMAT_1.items()} if number == 1 else {}
    job, counts = (
        {today.get(key, key): item for key, item in value[name].items()}
        for name in ("job", "counts")
    )
    size, wells, shards = job["wells_per_shard"], counts["wells"], counts["shards"]
    if not all(type(n) is int and n > 0 for n in (size, wells, shards)):
        raise ValueError("the numbers of wells and shards are not positive integers")
    if shards != -(-wells // size):
        raise ValueError(f"{wells} wells do not make {shards} shards of {size}")
    return Manifest(
        job=job,
        settings=value["settings"],
        versions=value["versions"],
        counts=counts,
        created=str(value["created"]),
        format=number,
        job_hash=value["job_hash"],
    )


def create_or_verify(store: OutputStore, manifest: Manifest) -> Manifest:
    """Write `manifest` into a new folder, or check that the existing one is of the same job.

    Returns:
      The manifest that is in the folder.

    Raises:
      InputError: the folder belongs to another job; the message names what differs.
    """
    if manifest_name(store) is None:
        store.create(NAME, manifest.encode())
    existing = read_manifest(store)
    # Through JSON, so that tuples and lists, which it cannot tell apart, compare as equal.
    job = json.loads(json.dumps(manifest.job))
    if existing.job != job:
        keys = [k for k in (*existing.job, *job) if existing.job.get(k) != job.get(k)]
        raise InputError(
            f"{store} was made with another {_difference(keys[0], existing.job, job)}; "
            "mixing them would make the embeddings incomparable, so choose another --out."
        )
    return existing


def _difference(key: str, existing: dict[str, Any], job: dict[str, Any]) -> str:
    name = _RESUMABLE_KEYS.get(key, key)
    old, new = existing.get(key), job.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [k for k in (*old, *new) if old.get(k) != new.get(k)]
        return f"{name}: {inner[0]} was {old.get(inner[0])!r}, is {new.get(inner[0])!r}"
    return f"{name} (it was {old!r}, is {new!r})"
