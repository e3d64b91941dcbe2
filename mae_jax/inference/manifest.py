"""What an embeddings folder was made with, so that nothing else is ever mixed into it."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass, field
from typing import Any

from mae_jax import __version__
from mae_jax.errors import InputError
from mae_jax.inference.output_store import Store

NAME = "manifest.json"
FORMAT = "mae_jax embeddings 1"
_WORDS = {
    "encoder": "encoder",
    "fingerprint": "weights or architecture",
    "preprocessing": "preprocessing",
    "index": "index",
    "part_wells": "number of wells a part (--part-wells)",
    "crop": "size of crops",
    "pooling": "pooling",
    "block": "block",
    "channels": "channels",
    "outputs": "outputs",
}


@dataclass(frozen=True)
class Manifest:
    """The record of a job.

    Attributes:
      job: what the numbers depend on; two processes may write to one folder only if it is equal.
      settings: what they do not depend on beyond rounding, as the first process had it.
      versions: of the packages that the first process ran with.
      counts: what is planned and, once the job is complete, what was done.
      created: when the first process began, in UTC.
    """

    job: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def hash(self) -> str:
        """The hash of `job`, which every part carries."""
        return hashlib.sha256(json.dumps(self.job, sort_keys=True).encode()).hexdigest()[:32]

    def encode(self) -> bytes:
        """The manifest as the bytes of its file."""
        value = {
            "format": FORMAT,
            "job": self.job,
            "job_hash": self.hash,
            "settings": self.settings,
            "versions": self.versions,
            "counts": self.counts,
            "created": self.created,
        }
        return (json.dumps(value, indent=2) + "\n").encode()


def versions() -> dict[str, str]:
    """The versions of what the numbers are made with."""
    found = {"mae_jax": __version__, "python": platform.python_version()}
    for package in ("jax", "jaxlib", "flax", "numpy", "tifffile", "imagecodecs"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_manifest(store: Store) -> Manifest:
    """The manifest of an embeddings folder.

    Raises:
      InputError: the folder has none, or one of another format.
    """
    where = store.path(NAME)
    if not store.exists(NAME):
        raise InputError(f"{store} is no embeddings folder: it has no {NAME}.")
    try:
        value = json.loads(store.read(NAME))
        if value["format"] != FORMAT:
            raise InputError(f"{where} has the format '{value['format']}', not '{FORMAT}'.")
        keys = ("job", "settings", "versions", "counts", "created")
        return Manifest(**{key: value[key] for key in keys})
    except (ValueError, KeyError, TypeError) as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(f"{where} is broken ({problem!r}); remove the folder.") from None


def claim(store: Store, mine: Manifest) -> Manifest:
    """Makes `mine` the folder's manifest, or checks that the one there is of the same job.

    Raises:
      InputError: the folder belongs to another job; the message names what differs.
    """
    store.create(NAME, mine.encode())
    there = read_manifest(store)
    # Through JSON, so that tuples and lists, which it cannot tell apart, compare as equal.
    job = json.loads(json.dumps(mine.job))
    if there.job != job:
        keys = [k for k in (*there.job, *job) if there.job.get(k) != job.get(k)]
        raise InputError(
            f"{store} was made with another {_difference(keys[0], there.job, job)}; "
            "mixing them would make the embeddings incomparable, so choose another --out."
        )
    return there


def _difference(key: str, there: dict[str, Any], here: dict[str, Any]) -> str:
    name = _WORDS.get(key, key)
    old, new = there.get(key), here.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        inner = [k for k in (*old, *new) if old.get(k) != new.get(k)]
        return f"{name}: {inner[0]} was {old.get(inner[0])!r}, is {new.get(inner[0])!r}"
    return f"{name} (it was {old!r}, is {new!r})"
