"""The index of a screen: one row per site, with its metadata and where its channels' images lie."""

import hashlib
import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from mae_jax.config import nearest
from mae_jax.data import image_uri
from mae_jax.data.storage import read_bytes
from mae_jax.errors import InputError
from mae_jax.files import replacing

METADATA = (
    "Metadata_Source",
    "Metadata_Experiment",
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_Site",
    "Metadata_Perturbation",
    "Metadata_Gene",
    "Metadata_ControlType",
    "Metadata_Split",
)
WELL = METADATA[:4]  # what names a well among all screens
SITE = METADATA[:5]
SPLITS = ("train", "validation")
_KEY = b"mae_jax.index"


@dataclass(frozen=True, eq=False)
class Index:
    """A table with one row per site, and the folder or URL that its relative paths count from.

    Columns: the strings named in `METADATA` and any further `Metadata_*`; `Channels`, the names
    of the site's channels; `Images`, one image URI each (see `mae_jax.data.image_uri`); and, where
    the source has them, `Illumination`, one image URI each ("" for none). That of a packed store
    also has `Zarr`, the text of the `zarr.json` of the array that a site's images lie in: with it
    arrays are opened without reading anything.
    """

    table: pd.DataFrame
    root: str

    def __post_init__(self) -> None:
        missing = [c for c in (*METADATA, "Channels", "Images") if c not in self.table.columns]
        if missing:
            raise InputError(f"an index needs the columns {', '.join(missing)}.")
        table = self.table.reset_index(drop=True)
        for column in table.columns:
            if column.startswith("Metadata_"):
                table[column] = table[column].astype("object").fillna("").astype(str)
        if "Zarr" in table.columns:  # few texts, long ones
            table["Zarr"] = table["Zarr"].astype("category")
        for row, (names, images) in enumerate(zip(table["Channels"], table["Images"], strict=True)):
            if len(names) != len(images) or len(set(names)) != len(names) or not len(names):
                raise InputError(
                    f"row {row} of the index has channels {list(names)} for {len(images)} images; "
                    "each channel needs a name of its own and one image."
                )
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "root", str(self.root))

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Index":
        """Reads an index that `write` or `mae-jax index` has written, or that of a packed store.

        Raises:
          InputError: the file is missing, is no parquet file or no index.
        """
        import pyarrow
        import pyarrow.parquet as parquet

        where = os.fspath(path)
        if os.path.isdir(where) or (image_uri.is_url(where) and not where.endswith(".parquet")):
            where = posixpath.join(where, "index.parquet")  # of a store
        try:
            source = BytesIO(read_bytes(where)) if image_uri.is_url(where) else where
            read = parquet.read_table(source)
        except FileNotFoundError:
            raise InputError(f"{where} does not exist; make it with `mae-jax index`.") from None
        except (pyarrow.ArrowException, OSError) as problem:
            raise InputError(f"{where} is no parquet file ({problem}).") from None
        record = json.loads((read.schema.metadata or {}).get(_KEY, b"{}"))
        try:
            return cls(read.to_pandas(), _root(record, where))
        except InputError as problem:
            raise InputError(f"{where} is no index: {problem}") from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the index as one parquet file, whole or not at all.

        A local root is recorded both relative to the file and in full, so that a screen which is
        moved together with its index is still found.
        """
        import pyarrow
        import pyarrow.parquet as parquet

        path = Path(path)
        record = {"root": self.root}
        if not image_uri.is_url(self.root):
            record = {
                "root": os.path.abspath(self.root),
                "relative": os.path.relpath(self.root, path.absolute().parent),
            }
        table = pyarrow.Table.from_pandas(self.table, preserve_index=False)
        for name in ("Channels", "Images", "Illumination"):
            if name in table.column_names:
                place = table.column_names.index(name)
                kind = pyarrow.list_(pyarrow.string())
                table = table.set_column(place, name, table[name].cast(kind))
        metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(record).encode()}
        with replacing(path) as beside:
            parquet.write_table(table.replace_schema_metadata(metadata), beside, compression="zstd")
        return path

    @cached_property
    def sites(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Channels and locators of every row as plain tuples: quick to reach, cheap to send."""
        known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all rows with it
        rows = zip(self.table["Channels"], self.table["Images"], strict=True)
        found = []
        for names, images in rows:
            names = tuple(map(str, names))
            found.append((known.setdefault(names, names), tuple(map(str, images))))
        return found

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The names of all channels, in the order in which the rows first show them."""
        order: dict[str, None] = {}
        for names in dict.fromkeys(names for names, _ in self.sites):
            order.update(dict.fromkeys(names))
        return tuple(order)

    def zarr_metadata(self, row: int) -> str:
        """The text of the `zarr.json` of a row's array, "" where the index does not hold it."""
        return self._zarr[row] if self._zarr else ""

    @cached_property
    def _zarr(self) -> list[str]:
        if "Zarr" not in self.table.columns:
            return []
        texts = self.table["Zarr"].cat
        return [str(texts.categories[number]) for number in texts.codes]

    def select(self, **metadata: str | Sequence[str]) -> "Index":
        """The rows where each named column has the value, or one of the values, given.

        `index.select(Split="train", Plate=["P1", "P2"])`: `Metadata_` may be left out.

        Raises:
          InputError: there is no such column (names its nearest neighbour) or no such row.
        """
        keep = pd.Series(True, index=self.table.index)
        for name, wanted in metadata.items():
            column = name if name.startswith("Metadata_") else f"Metadata_{name}"
            if column not in self.table.columns:
                known = [c for c in self.table.columns if c.startswith("Metadata_")]
                raise InputError(f"the index has no column '{column}': {nearest(column, known)}")
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            keep &= self.table[column].isin(values)
        if not keep.any():
            raise InputError(f"no site in the index has {_words(metadata)}.")
        return Index(self.table[keep], self.root)

    def wells(self) -> pd.DataFrame:
        """One row per well, in the order of the index.

        The columns are those of the table without `Metadata_Site`, `Channels`, `Images`,
        `Illumination` and `Zarr` (the first site's values); `rows`: the row numbers of its sites.
        """
        keys = list(WELL)
        drop = ["Metadata_Site", "Channels", "Images", "Illumination", "Zarr"]
        first = self.table.drop(columns=drop, errors="ignore").drop_duplicates(keys)
        groups = self.table.groupby(keys, sort=False).indices
        rows = [
            np.asarray(groups[tuple(values)]).tolist()
            for values in first[keys].itertuples(index=False)
        ]
        return first.assign(rows=pd.Series(rows, index=first.index)).reset_index(drop=True)

    def image_uris(
        self, row: int, channels: Sequence[str] | None = None
    ) -> list[image_uri.ImageURI]:
        """Full image URIs of some channels of a row, in the order given (None: all, as listed).

        Raises:
          InputError: the site lacks one of the channels.
        """
        names, images = self.sites[row]
        places = range(len(names)) if channels is None else [_place(self, row, c) for c in channels]
        resolved: dict[str, str] = {}  # channels often lie in one file
        found = []
        for place in places:
            locator = image_uri.parse(images[place])
            path = resolved.get(locator.path)
            if path is None:
                path = resolved[locator.path] = image_uri.resolve(self.root, locator.path)
            found.append(image_uri.ImageURI(path, self._resolve_illumination(locator.fragment)))
        return found

    def _resolve_illumination(
        self, parts: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[str, str], ...]:
        """A locator's parts; an illumination function among them is a path too."""
        return tuple(
            (key, quote(image_uri.resolve(self.root, unquote(value)), safe=""))
            if key == "illumination"
            else (key, value)
            for key, value in parts
        )

    def describe(self, row: int) -> str:
        """The site's name for messages: 'plate P1, well A01, site 2'."""
        site = self.table.iloc[row]
        return (
            f"plate {site['Metadata_Plate']}, well {site['Metadata_Well']}, "
            f"site {site['Metadata_Site']}"
        )


def _place(index: Index, row: int, channel: str) -> int:
    names = index.sites[row][0]
    if channel not in names:
        raise InputError(
            f"{index.describe(row)} has no channel '{channel}': it has {', '.join(names)}."
        )
    return names.index(channel)


def _root(record: Mapping[str, Any], path: str) -> str:
    """Where the paths of the index at `path` count from."""
    if image_uri.is_url(path):  # copied there together with what it names, as a store is
        if not record.get("relative", "..").startswith(".."):
            return posixpath.join(posixpath.dirname(path), record["relative"]).removesuffix("/.")
    elif "relative" in record:
        beside = os.path.normpath(
            os.path.join(os.path.dirname(os.path.abspath(path)), record["relative"])
        )
        if os.path.isdir(beside):
            return beside
    return str(record.get("root", os.path.dirname(os.path.abspath(path))))


def _words(metadata: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} = {value!r}" for name, value in metadata.items())


def with_split(
    table: pd.DataFrame,
    *,
    experiments: Sequence[str] = (),
    fraction: float | None = None,
    plates: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """The table with `Metadata_Split` set: whole experiments go to validation, never parts of one.

    Batch effects are shared within an experiment, so a split inside one would leak. Experiments
    are named, or a `fraction` of them is drawn by a hash of their names, which never changes when
    experiments are added; at least one of several goes to each side. `plates` is the way out
    where there is one experiment only: the named plates go to validation.

    Raises:
      InputError: a name that the table does not hold, plates named though there are several
        experiments, or nothing left to train on.
    """
    known = sorted(table["Metadata_Experiment"].unique())
    for name in experiments:
        if name not in known:
            raise InputError(
                f"there is no experiment '{name}' to validate on: {nearest(name, known)}"
            )
    if plates and len(known) > 1:
        raise InputError(
            f"with {len(known)} experiments the split goes by experiment, or plates of one "
            f"experiment would leak into validation; name one of {', '.join(known)} instead."
        )
    for name in plates:
        have = sorted(table["Metadata_Plate"].unique())
        if name not in have:
            raise InputError(f"there is no plate '{name}' to validate on: {nearest(name, have)}")
    chosen = set(experiments)
    if fraction is not None:
        if not 0 <= fraction < 1:
            raise InputError(f"the share of validation must be from 0 up to 1, not {fraction}.")
        rank = {
            name: int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) / 2**64
            for name in known
        }
        drawn = {name for name in known if rank[name] < fraction}
        if fraction > 0 and len(known) > 1:
            drawn = drawn or {min(known, key=rank.__getitem__)}
            if len(drawn) == len(known):
                drawn.remove(max(known, key=rank.__getitem__))
            chosen |= drawn
    held_out = table["Metadata_Experiment"].isin(chosen) | table["Metadata_Plate"].isin(plates)
    if held_out.all() and len(table):
        raise InputError("every site would go to validation; leave an experiment to train on.")
    split = held_out.map({True: "validation", False: "train"})
    return table.assign(Metadata_Split=split)
