"""What a data set gives for a selection: sites, and the files that each needs."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mae_jax.data.fetch.selection import Selection
from mae_jax.data.fetch.transfer import RemoteFile, download
from mae_jax.errors import InputError

FILES = "Files"  # the column with a site's `RemoteFile`s


@dataclass(frozen=True)
class Workspace:
    """The folder of a data set, and the small tables in it that say what the data set has.

    Attributes:
      folder: where everything goes.
      options: further choices that a data set has, such as JUMP-lite's codec.
    """

    folder: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def table(self, url: str, name: str, sha256: str = "") -> Path:
        """A table, downloaded to `metadata/<name>` unless it is there.

        Raises:
          InputError: it does not exist, or its checksum is another one.
          MachineError: it is out of reach.
        """
        return download(RemoteFile(url, f"metadata/{name}", sha256=sha256), self.folder)

    def keep(self, url: str, name: str) -> None:
        """A table that only a benchmark reads, if it is there.

        Raises:
          MachineError: it is out of reach.
        """
        with suppress(InputError):
            self.table(url, name)


@dataclass(frozen=True)
class SitePlan:
    """The selected sites.

    Attributes:
      sites: one row per site: `Metadata_*`, `Channels`, `Images` (paths relative to the folder),
        maybe `Illumination`, and `Files`, the files that the site needs.
      shared: files that no single site needs.
    """

    sites: pd.DataFrame
    shared: tuple[RemoteFile, ...] = ()

    def files(self) -> list[RemoteFile]:
        """All files, each once."""
        each = (file for files in self.sites[FILES] for file in files)
        return list(dict.fromkeys((*self.shared, *each)))


@dataclass(frozen=True)
class Dataset:
    """A public data set.

    Attributes:
      name: its name on the command line.
      title: what it is.
      size: of all its images, in words.
      licence: its name.
      plan: (workspace, selection) -> the selected sites.
      must_accept: the licence restricts the use, and must be accepted by an option.
      options: names and allowed values of its further choices; the first is the default.
    """

    name: str
    title: str
    size: str
    licence: str
    plan: Callable[[Workspace, Selection], SitePlan]
    must_accept: bool = False
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_strings(path: Path, **options: object) -> pd.DataFrame:
    """A CSV, TSV or Parquet table with every value as a string, "" where there is none.

    Raises:
      InputError: it is no table.
    """
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path, **options)  # type: ignore[call-overload]
            return table.astype("object").where(table.notna(), "").astype(str)
        separator = "\t" if path.suffix in (".txt", ".tsv") else ","
        return pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator)
    except Exception as error:  # pandas and arrow raise exceptions of many types
        raise InputError(
            f"{path} is no table ({str(error).splitlines()[0]}); delete it and run the command "
            "again."
        ) from None


def columns_of(table: pd.DataFrame, prefix: str = "") -> list[str]:
    """The names of the columns that start with `prefix`."""
    return [name for name in map(str, table.columns) if name.startswith(prefix)]


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows by the names of their columns."""
    names = columns_of(table)
    return [dict(zip(names, row, strict=True)) for row in table.itertuples(index=False, name=None)]
