"""Where one channel's plane lies: a path or URL, with a fragment that says which part of it.

`plate/r01c02.tiff` is a whole file, `well.ome.tiff#channel=3` a plane of it,
`s3://bucket/rxrx3.parquet#row=17` a cell of a table. Relative paths count from the index's root.
"""

import os
import posixpath
import re
from dataclasses import dataclass
from functools import lru_cache

_FRAGMENT = re.compile(r"#((?:[a-z]+=[^#&=]*)(?:&[a-z]+=[^#&=]*)*)$")
_URL = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclass(frozen=True)
class Locator:
    """A file or store, and the named parts of the fragment, such as (('page', '2'),)."""

    path: str
    parts: tuple[tuple[str, str], ...] = ()

    def part(self, name: str) -> str | None:
        """The value of the fragment's part `name`, or None where it has none."""
        for key, value in self.parts:
            if key == name:
                return value
        return None

    def number(self, name: str) -> int | None:
        """The fragment's part `name` as an integer, or None where it has none."""
        value = self.part(name)
        return None if value is None else int(value)

    def __str__(self) -> str:
        tail = "&".join(f"{key}={value}" for key, value in self.parts)
        return f"{self.path}#{tail}" if tail else self.path


@lru_cache(maxsize=65536)
def parse(text: str) -> Locator:
    """Splits a locator into path and fragment; any other '#' is part of the path."""
    match = _FRAGMENT.search(text)
    if not match:
        return Locator(text)
    pairs = (item.partition("=") for item in match[1].split("&"))
    parts = tuple((name, value) for name, _, value in pairs)
    return Locator(text[: match.start()], parts)


def is_url(path: str) -> bool:
    """Whether `path` is a URL (`s3://…`, `https://…`, `memory://…`) and not a local file."""
    return bool(_URL.match(path))


def resolve(root: str, path: str) -> str:
    """`path` counted from `root`, both local or URLs; `file:` URLs become local paths."""
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
        inside = root.rstrip("/") + "/"
        return path[len(inside) :] if path.startswith(inside) else path
    shorter = os.path.relpath(path, root)
    return os.path.abspath(path) if shorter.startswith("..") else shorter.replace(os.sep, "/")
