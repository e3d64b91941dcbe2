"""The registry of readers: one entry per format of screens that `open_screen` understands.

The formats of this package are registered in `mae_jax.data.readers.open_screen`; another one is
registered by its own module, which must be imported before a screen of that format is opened
(`mae-jax --import MODULE …` on the command line):

    from mae_jax.data import CERTAIN, Index, Reader, register_reader

    def matches(source):
        return CERTAIN if source.path.endswith(".toy") else 0.0

    def read(path, options):
        return Index(table, root)

    register_reader(Reader("toy", "toy screens", read, matches))
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from mae_jax.data.image_uri import is_url
from mae_jax.data.index import Index
from mae_jax.data.storage import list_folder
from mae_jax.errors import InputError

CERTAIN = math.inf  # the score of a source that can have no other format
_TABLES = (".csv", ".tsv", ".gz", ".parquet")


@dataclass(frozen=True)
class Source:
    """What `Reader.matches` may look at.

    Attributes:
      path: the path or URL, without a slash at its end.
    """

    path: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a local folder, or a URL that does not end like a table's."""
        if is_url(self.path):
            return not self.path.lower().endswith(_TABLES)
        return os.path.isdir(self.path)

    @cached_property
    def files(self) -> list[str]:
        """Paths of all files below a folder, relative to it; listed once. Empty for a file."""
        return list_folder(self.path) if self.is_folder else []


@dataclass(frozen=True)
class ReadOptions:
    """The options of `open_screen`, which are also those of `mae-jax index`.

    Attributes:
      images: folder or URL of the images, if it is not the source's own.
      channel_names: names of the channels, by the order of their numbers or as 'number=name'.
      metadata: path of a table of wells or sites.
      metadata_value: metadata columns with one value for all sites, by their full names.
      plane: z-plane, or 'projection'.
      time: time point.
      pattern: regular expression of a folder's file names.
    """

    images: str | None = None
    channel_names: Sequence[str] = ()
    metadata: str | None = None
    metadata_value: Mapping[str, str] = field(default_factory=dict)
    plane: int | str | None = None
    time: int | None = None
    pattern: str | None = None


def _never(source: Source) -> float:
    del source
    return 0.0


@dataclass(frozen=True)
class Reader:
    """A format of screens, and how it is detected and read.

    Attributes:
      name: the value of `format`.
      title: what it reads, for the help.
      read: (path, options) -> the index; `mae_jax.data.metadata.complete` fills the columns that
        every index needs.
      matches: source -> the number of its files that have this format, 0 if it has another one, or
        `CERTAIN`, which ends the search. The reader with the highest score is called. By default
        the format is never guessed.
      takes: the fields of `ReadOptions` that `read` uses, besides `metadata_value`. Giving another
        one is an error, apart from `metadata`: `open_screen` joins that table to the sites unless
        the reader takes it.
    """

    name: str
    title: str
    read: Callable[[str, ReadOptions], Index]
    matches: Callable[[Source], float] = _never
    takes: tuple[str, ...] = ()


_readers: dict[str, Reader] = {}


def register_reader(reader: Reader) -> Reader:
    """Make a format known to `open_screen`; formats are tried in the order of registration.

    Raises:
      InputError: another reader has this name.
    """
    if reader.name == "auto" or _readers.get(reader.name, reader) != reader:
        raise InputError(f"the reader '{reader.name}' is already registered; choose another name.")
    _readers[reader.name] = reader
    return reader


def readers() -> dict[str, Reader]:
    """All registered readers by name."""
    return dict(_readers)
