"""Image URIs: a path or URL, with a fragment that selects one plane of the file.

`plate/r01c02.tiff` is a whole file, `well.ome.tiff#channel=3` a plane of it,
`s3://bucket/rxrx3.parquet#row=17` a cell of a table. Relative paths are relative to the index's
root. The keys of a fragment:

  page           a page of a TIFF, from 0
  channel, z, t  a plane of a stack by its axes, from 0; `channel` also selects a color, or a
                 channel of a tile
  index          the leading indices of a plane of a Zarr array, such as 0,2,0
  record         a record of an ArrayRecord file, from 0
  row            a row of a parquet table, from 0
  project        'max' or 'mean' over z: over the z axis of a stack, the axis of a Zarr array that
                 `index` marks with `*`, or the file and those of `planes`
  planes         the further files with z-planes of this one: quoted paths, separated by commas
  region         a part of a large TIFF image: its top, left, height and width in pixels, such as
                 2048,0,2048,2048; only the tiles that it touches are decoded
  illumination   the illumination function that the plane is divided by: a quoted path
"""

import os
import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache

from mae_jax.config import nearest
from mae_jax.errors import InputError, redact_credentials

KEYS = (
    "page", "channel", "z", "t", "index", "record", "row", "project", "planes", "region",
    "illumination",
)  # fmt: skip
PROJECTIONS = ("max", "mean")
_NUMBERS = ("page", "channel", "z", "t", "record", "row")
_OLD_KEYS = {"at": "index", "light": "illumination"}  # as indexes of earlier versions have them

_FRAGMENT = re.compile(r"#((?:[a-z]+=[^#&=]*)(?:&[a-z]+=[^#&=]*)*)$")
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class ImageURI:
    """A file or store, and the pairs of the fragment, such as (('page', '2'),)."""

    path: str
    fragment: tuple[tuple[str, str], ...] = ()

    def get(self, key: str) -> str | None:
        """The value of `key` in the fragment, or None where it has none."""
        for name, value in self.fragment:
            if name == key:
                return value
        return None

    def get_int(self, key: str) -> int | None:
        """The value of `key` in the fragment as an integer, or None where it has none."""
        value = self.get(key)
        return None if value is None else int(value)

    def without(self, *keys: str) -> "ImageURI":
        """The same URI without some keys of its fragment."""
        return ImageURI(self.path, tuple(pair for pair in self.fragment if pair[0] not in keys))

    def __str__(self) -> str:
        tail = "&".join(f"{key}={value}" for key, value in self.fragment)
        return redact_credentials(f"{self.path}#{tail}" if tail else self.path)


@lru_cache(maxsize=65536)
def parse(text: str) -> ImageURI:
    """Splits a URI into path and fragment; any other '#' is part of the path.

    Raises:
      InputError: the fragment has an unknown key, a key twice, or a value that is not a whole
        number from 0 where one is needed.
    """
    match = _FRAGMENT.search(text)
    if not match:
        return ImageURI(text)
    pairs = (item.partition("=") for item in match[1].split("&"))
    fragment = tuple((_OLD_KEYS.get(key, key), value) for key, _, value in pairs)
    names = [key for key, _ in fragment]
    for key, value in fragment:
        if key not in KEYS:
            raise InputError(
                f"{redact_credentials(text)} has an unknown key '{key}': {nearest(key, KEYS)}"
            )
        if names.count(key) > 1:
            raise InputError(f"{redact_credentials(text)} has the key '{key}' twice; keep one.")
        whole = value.isascii() and value.isdigit() and len(value) < 19
        if key in _NUMBERS and not whole:
            raise InputError(
                f"{redact_credentials(text)} has {key}={value}; expected a whole number from 0 on."
            )
        if key == "region" and not re.fullmatch(r"\d{1,9},\d{1,9},\d{1,9},\d{1,9}", value):
            raise InputError(
                f"{redact_credentials(text)} has region={value}; expected top,left,height,width."
            )
        if key == "project" and value not in PROJECTIONS:
            raise InputError(
                f"{redact_credentials(text)} has project={value}; expected "
                f"{' or '.join(PROJECTIONS)}."
            )
    return ImageURI(text[: match.start()], fragment)


def is_url(path: str) -> bool:
    """Whether `path` is a URL (`s3://…`, `https://…`, `memory://…`) and not a local file."""
    return bool(_URL.match(path))


def protocol(path: str) -> str:
    """The protocol of a URL in lower case, 'file' for a local path."""
    return path.partition("://")[0].lower() if is_url(path) else "file"


def resolve(root: str, path: str) -> str:
    """`path` joined to `root`, both local or URLs; `file:` URLs become local paths."""
    if path.startswith("file:"):
        path = re.sub(r"^file:(//)?", "", path)
    if is_url(path) or os.path.isabs(path):
        return path
    if is_url(root):
        return posixpath.join(root, path.replace("\\", "/"))
    return os.path.join(root, path)


def relative(root: str, path: str) -> str:
    """`path` as written in an index with that root: relative where it lies inside the root."""
    if is_url(root) or is_url(path):
        prefix = root.rstrip("/") + "/"
        return path[len(prefix) :] if path.startswith(prefix) else path
    shorter = os.path.relpath(path, root)
    return os.path.abspath(path) if shorter.startswith("..") else shorter.replace(os.sep, "/")
