"""The index of a screen: one row per site, with its metadata and where its channels' images lie."""

import json
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from mae_jax.errors import InputError, MachineError, redact_credentials
from mae_jax.files import replacing, writable
from mae_jax.html_table import html_table

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
MAX_TABLE_BYTES = 2**33


@dataclass(frozen=True)
class ValueRange:
    """The gray values of a channel in a sample of sites.

    Attributes:
      dtype: of the pixels, such as 'uint16'.
      low, high: the smallest and the largest value.
      p99_9: the 99.9th percentile, the median over the sites.
    """

    dtype: str
    low: float
    high: float
    p99_9: float


@dataclass(frozen=True, eq=False)
class Index:
    """A table with one row per site, and the folder or URL that its relative paths count from.

    Columns: the strings named in `METADATA` and any further `Metadata_*`; `Channels`, the names
    of the site's channels; `Images`, one image URI each (see `mae_jax.data.image_uri`); and, where
    the source has them, `Illumination`, one image URI each ("" for none). That of a packed store
    also has `Zarr`, the text of the `zarr.json` of the array that a site's images lie in: with it
    arrays are opened without reading anything.

    Attributes:
      table: the table.
      root: the folder or URL.
      value_ranges: for each channel the range of its gray values, as `mae-jax index` has measured
        it on a sample of sites; empty where it was not measured.
    """

    table: pd.DataFrame
    root: str
    value_ranges: Mapping[str, ValueRange] = field(default_factory=dict)

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
        for column in ("Channels", "Images"):
            for row, texts in enumerate(table[column]):
                if texts is None or not all(isinstance(text, str) for text in texts):
                    raise InputError(
                        f"column {column} of the index must contain strings; row {row} does not."
                    )
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

    def __repr__(self) -> str:
        wells, plates = (len(self.table[list(WELL[:n])].drop_duplicates()) for n in (4, 3))
        return (
            f"Index({len(self):,} sites of {wells:,} wells on {plates:,} plates; channels: "
            f"{', '.join(self.channels)})"
        )

    def _repr_html_(self) -> str:
        rows: dict[str, object] = {"sites": f"{len(self):,}", "channels": ", ".join(self.channels)}
        for name in self.table.columns:
            if name.startswith("Metadata_"):
                values = self.table[name].unique()
                some = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
                rows[name] = f"{len(values):,} values: {some}"
        return html_table(f"Index of {self.root}", rows)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Index":
        """Reads an index that `write` or `mae-jax index` has written, or that of a packed store.

        Raises:
          InputError: the file is missing, is no parquet file or no index.
        """
        name = os.fspath(path)
        if not name:
            raise InputError("the path of the index is empty; name one made with `mae-jax index`.")
        if os.path.isdir(name) or (image_uri.is_url(name) and not name.endswith(".parquet")):
            name = posixpath.join(name, "index.parquet")  # of a store
        table, record = read_index_table(name)
        try:
            return cls(table, _root(record, name), _value_ranges(record))
        except InputError as error:
            raise InputError(f"{redact_credentials(name)} is no index: {error}") from None

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Writes the index as one parquet file, whole or not at all.

        A local root is recorded both relative to the file and in full, so that a screen which is
        moved together with its index is still found.
        """
        import pyarrow
        import pyarrow.parquet as parquet

        path = Path(path)
        record: dict[str, Any] = {"root": self.root}
        if not image_uri.is_url(self.root):
            record = {
                "root": os.path.abspath(self.root),
                "relative": os.path.relpath(self.root, path.absolute().parent),
            }
        if self.value_ranges:
            record["value_ranges"] = {
                channel: asdict(values) for channel, values in self.value_ranges.items()
            }
        table = pyarrow.Table.from_pandas(self.table, preserve_index=False)
        for name in ("Channels", "Images", "Illumination"):
            if name in table.column_names:
                position = table.column_names.index(name)
                texts = pyarrow.list_(pyarrow.string())
                table = table.set_column(position, name, table[name].cast(texts))
        metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(record).encode()}
        table = table.replace_schema_metadata(metadata)
        with (
            writable(path),
            replacing(path) as tmp_path,
        ):  # checksums show damage when the index is read
            parquet.write_table(table, tmp_path, compression="zstd", write_page_checksum=True)
        return path

    @cached_property
    def sites(self) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """Channels and locators of every row as plain tuples: quick to reach, cheap to send."""
        known: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for all rows with it
        rows = zip(self.table["Channels"], self.table["Images"], strict=True)
        sites = []
        for names, images in rows:
            names = tuple(map(str, names))
            sites.append((known.setdefault(names, names), tuple(map(str, images))))
        return sites

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The names of all channels, in the order in which the rows first show them."""
        order: dict[str, None] = {}
        for names in dict.fromkeys(names for names, _ in self.sites):
            order.update(dict.fromkeys(names))
        return tuple(order)

    @property
    def has_plates(self) -> bool:
        """Whether the rows are wells of plates, not samples such as slides or single images.

        A sample's name stands in `Metadata_Sample` and takes the place of the well's name.
        """
        table = self.table
        samples = "Metadata_Sample" in table.columns and len(table) > 0
        return not (samples and (table["Metadata_Sample"] == table["Metadata_Well"]).all())

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
          InputError: there is no such column (names its nearest neighbor) or no such row.
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
        return replace(self, table=self.table[keep])

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
        numbers = (
            range(len(names)) if channels is None else [_number(self, row, c) for c in channels]
        )
        resolved: dict[str, str] = {}  # channels often lie in one file
        uris = []
        for number in numbers:
            uri = image_uri.parse(images[number])
            path = resolved.get(uri.path)
            if path is None:
                path = resolved[uri.path] = image_uri.resolve(self.root, uri.path)
            uris.append(image_uri.ImageURI(path, self._resolve_paths(uri.fragment)))
        return uris

    def _resolve_paths(self, fragment: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        """A fragment whose illumination function and further z-planes are resolved."""
        return tuple(
            (key, ",".join(map(self._resolve_quoted, value.split(","))))
            if key in ("illumination", "planes")
            else (key, value)
            for key, value in fragment
        )

    def _resolve_quoted(self, path: str) -> str:
        return quote(image_uri.resolve(self.root, unquote(path)), safe="")

    def describe(self, row: int) -> str:
        """The site's name for messages: 'plate P1, well A01, site 2'."""
        site = self.table.iloc[row]
        if site.get("Metadata_Sample", "") == site["Metadata_Well"]:
            return f"sample {site['Metadata_Well']}, site {site['Metadata_Site']}"
        return (
            f"plate {site['Metadata_Plate']}, well {site['Metadata_Well']}, "
            f"site {site['Metadata_Site']}"
        )


def _number(index: Index, row: int, channel: str) -> int:
    names = index.sites[row][0]
    if channel not in names:
        raise InputError(
            f"{index.describe(row)} has no channel '{channel}': it has {', '.join(names)}."
        )
    return names.index(channel)


def read_index_table(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table and the record of an index file, checked column by column.

    Raises:
      InputError: the file is missing, damaged or no index.
      MachineError: it is out of reach, or memory ran out.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    shown = redact_credentials(name)
    try:
        raw = read_bytes(name)
    except InputError as error:
        if str(error).endswith("does not exist."):
            raise InputError(f"{shown} does not exist; make it with `mae-jax index`.") from None
        raise
    try:
        file = parquet.ParquetFile(BytesIO(raw), page_checksum_verification=True)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        if size > MAX_TABLE_BYTES:
            raise InputError(f"{shown} claims {size / 2**30:.2g} GiB; it is damaged or no index.")
        table = file.read()
        table.validate(full=True)
        record = json.loads((table.schema.metadata or {}).get(_KEY, b"{}"))
        if not isinstance(record, dict):
            raise ValueError("its metadata are no record")
        texts = pyarrow.list_(pyarrow.string())
        columns = {}
        for column in table.column_names:
            if column in ("Channels", "Images", "Illumination"):
                columns[column] = table[column].cast(texts)
            elif column.startswith("Metadata_"):
                columns[column] = table[column].cast(pyarrow.string())
            elif column == "Zarr":
                columns[column] = table[column]
        # Without pandas' own metadata: only the types of the columns count.
        return pyarrow.table(columns).to_pandas(ignore_metadata=True), record
    except InputError:
        raise
    except MemoryError:
        raise MachineError(f"memory ran out while {shown} was read.") from None
    except Exception as error:  # arrow raises exceptions of many types on damaged files
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{shown} is no index or damaged ({reason}); make it anew.") from None


def _value_ranges(record: Mapping[str, Any]) -> dict[str, ValueRange]:
    stored = record.get("value_ranges", {})
    try:
        return {
            str(channel): ValueRange(
                str(values["dtype"]),
                float(values["low"]),
                float(values["high"]),
                float(values["p99_9"]),
            )
            for channel, values in stored.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError("its value ranges are invalid; recreate the index.") from None


def _root(record: Mapping[str, Any], path: str) -> str:
    """Where the paths of the index at `path` count from."""
    if image_uri.is_url(path):  # copied there together with what it names, as a store is
        if not str(record.get("relative", "..")).startswith(".."):
            return posixpath.join(posixpath.dirname(path), record["relative"]).removesuffix("/.")
    elif "relative" in record:
        moved = os.path.normpath(
            os.path.join(os.path.dirname(os.path.abspath(path)), str(record["relative"]))
        )
        if os.path.isdir(moved):
            return moved
    return str(record.get("root", os.path.dirname(os.path.abspath(path))))


def _words(metadata: Mapping[str, Any]) -> str:
    return " and ".join(f"{name} = {value!r}" for name, value in metadata.items())
