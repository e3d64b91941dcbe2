"""LoadData tables (CSV, Parquet), as CellProfiler and the Cell Painting Gallery write them.

A folder of them is one screen: JUMP has one table per plate. One row per site; a channel's image
is `URL_Orig<Ch>`, or `FileName_Orig<Ch>` with `PathName_Orig<Ch>`; `Orig` is sometimes left out.
Illumination functions stand in `URL_Illum<Ch>` or `FileName_Illum<Ch>` with `PathName_Illum<Ch>`.
`Metadata_*` are kept as the strings they are: a plate named 0042 stays 0042.
"""

import gzip
import os
import posixpath
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from urllib.parse import unquote

import pandas as pd
from tqdm import tqdm

from mae_jax.data import image_uri, metadata
from mae_jax.data.index import Index
from mae_jax.data.readers.merge import merge
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import read_bytes, reason
from mae_jax.errors import InputError, redact_credentials

_MAX_CSV_BYTES = 2**32


@dataclass(frozen=True)
class _Columns:
    """The columns with the path of a channel's images."""

    channel: str
    url: str | None
    file: str | None
    path: str | None


def read_csv(path: str) -> pd.DataFrame:
    """A CSV or TSV file (also .gz) as strings, without type inference: '' where a cell is empty.

    Raises:
      InputError: the file is missing, empty or no table.
    """
    try:
        raw = read_bytes(path)
        plain = path.removesuffix(".gz")
        separator = "\t" if plain.endswith((".tsv", ".txt")) else ","
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=BytesIO(raw)) as file:
                raw = file.read(_MAX_CSV_BYTES + 1)
        if len(raw) > _MAX_CSV_BYTES:
            raise ValueError(f"more than {_MAX_CSV_BYTES / 2**30:.0f} GiB")
        return pd.read_csv(BytesIO(raw), dtype=str, keep_default_na=False, sep=separator)
    except InputError:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        shown = redact_credentials(path)
        raise InputError(
            f"{shown} is no table of comma-separated values ({reason(error)})."
        ) from None


def read_parquet(path: str) -> pd.DataFrame:
    """A Parquet table as strings: '' where a cell is empty.

    Raises:
      InputError: the file is missing or no Parquet file.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(BytesIO(read_bytes(path))).to_pandas()
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        shown = redact_credentials(path)
        raise InputError(f"{shown} is no Parquet table ({reason(error)}).") from None
    for column in table.columns:
        values = table[column]
        if values.dtype.kind == "f" and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")  # whole numbers with empty cells
        table[column] = values.astype("object").where(values.notna(), "").astype(str)
    return table


def read_loaddata(
    path: str,
    *,
    images: str | None = None,
    metadata_value: Mapping[str, str] | None = None,
    channels: Sequence[str] | None = None,
) -> Index:
    """The index of a LoadData table.

    Args:
      path: the CSV or Parquet file, local or URL.
      images: the folder or URL that the file names count from, in place of the CSV's own folder;
        with it, absolute `PathName_*` of another machine are tried relative to it.
      metadata_value: metadata columns set to one value for all rows.
      channels: the channels to take; None for all.

    Returns: an index whose sites have the channels for which the CSV names an image: a row with
      an empty cell has one channel fewer.

    Raises:
      InputError: no images are named, a channel asked for is missing, or metadata are lacking.
    """
    table = read_parquet(path) if path.lower().endswith(".parquet") else read_csv(path)
    if table.empty:
        raise InputError(f"{path} has no rows; it should have one per site.")
    root = images if images is not None else (posixpath.dirname(path) or ".")
    shown = redact_credentials(path)
    columns = _image_columns(list(table.columns), "")
    illumination = {c.channel: c for c in _image_columns(list(table.columns), "Illum")}
    if not columns:
        raise InputError(
            f"{shown} names no images: it has no column URL_Orig<Channel> or "
            "FileName_Orig<Channel>."
        )
    names = [c.channel for c in columns]
    for name in channels or ():
        if name not in names:
            raise InputError(f"{shown} has no channel '{name}'; it has {', '.join(names)}.")
    columns = [c for c in columns if not channels or c.channel in channels]
    cells = table.itertuples(index=False, name=None)
    records = [dict(zip(table.columns, row, strict=True)) for row in cells]
    own = [c for c in table.columns if c.startswith("Metadata_")]
    sites = table[own].copy()
    site_channels, site_images, site_illumination = [], [], []
    for row in records:
        images_of_row = {c.channel: _image(row, c, root, images is not None) for c in columns}
        present = [name for name, image in images_of_row.items() if image]
        site_channels.append(present)
        site_images.append([images_of_row[name] for name in present])
        site_illumination.append(
            [
                _image(row, illumination[name], root, images is not None)
                if name in illumination
                else ""
                for name in present
            ]
        )
    empty = [number for number, names in enumerate(site_channels) if not names]
    if empty:
        raise InputError(f"row {empty[0] + 1} of {shown} names no image at all; fill or delete it.")
    sites["Channels"] = pd.Series(site_channels, index=sites.index)
    sites["Images"] = pd.Series(site_images, index=sites.index)
    if illumination:
        sites["Illumination"] = pd.Series(site_illumination, index=sites.index)
    return Index(metadata.complete(sites, shown, metadata_value), root)


def _image_columns(columns: Sequence[str], prefix: str) -> list[_Columns]:
    """The channels that the columns name, in their order; prefix "" (images) or "Illum"."""
    known = set(columns)
    channels: dict[str, _Columns] = {}
    for column in columns:
        for start in ("URL_", "FileName_"):
            if not column.startswith(start):
                continue
            rest = column[len(start) :]
            if (prefix == "Illum") != rest.startswith("Illum"):
                continue
            stem = "Illum" if prefix else "Orig" if rest.startswith("Orig") else ""
            name = rest[len(stem) :]
            if not name or name in channels:
                continue
            url, file, folder = (f"{s}{stem}{name}" for s in ("URL_", "FileName_", "PathName_"))
            channels[name] = _Columns(
                name,
                url if url in known else None,
                file if file in known else None,
                folder if folder in known else None,
            )
    return list(channels.values())


def _image(row: Mapping[str, str], columns: _Columns, root: str, moved: bool) -> str:
    """The image URI in one row: '' where it names none."""
    if columns.url and row[columns.url]:
        path = (
            unquote(row[columns.url]) if row[columns.url].startswith("file:") else row[columns.url]
        )
        return image_uri.relative(root, image_uri.resolve(root, path))
    if not (columns.file and row[columns.file]):
        return ""
    folder = row[columns.path].replace("\\", "/") if columns.path else ""
    path = posixpath.join(folder, row[columns.file]) if folder else row[columns.file]
    if moved and os.path.isabs(path) and not os.path.exists(path):
        # Written on another machine: the longest tail of the path that exists below `images`.
        parts = path.strip("/").split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if os.path.exists(os.path.join(root, tail)):
                return tail
        return parts[-1]
    return image_uri.relative(root, image_uri.resolve(root, path))


def names_images(columns: Sequence[str]) -> bool:
    """Whether columns are those of a LoadData table."""
    return bool(_image_columns(columns, ""))


def find_tables(paths: Sequence[str]) -> list[str]:
    """The LoadData tables among a folder's paths, by their names.

    In each folder that with illumination functions is taken, of those that are called alike:
    `load_data_with_illum.csv` before `load_data.csv`.
    """
    best: dict[tuple[str, str], str] = {}
    for path in sorted(paths, key=lambda path: "with_illum" not in path):
        folder, name = posixpath.split(path)
        if re.search(r"load_?data[^/]*\.(csv|csv\.gz|parquet)$", name, re.IGNORECASE):
            stem = re.sub(r"_with_illum|\.(csv|csv\.gz|parquet)$", "", name, flags=re.IGNORECASE)
            best.setdefault((folder, stem), path)
    return sorted(best.values())


def _columns_of(path: str) -> list[str]:
    if path.lower().endswith(".parquet"):
        import pyarrow.parquet as parquet

        try:
            return list(parquet.read_schema(BytesIO(read_bytes(path))).names)
        except Exception:  # damaged, or no Parquet file: read elsewhere, with a message
            return []
    return []


def _matches(source: Source) -> float:
    plain = source.path.removesuffix(".gz").lower()
    if plain.endswith((".csv", ".tsv")):
        return CERTAIN
    if plain.endswith(".parquet") and names_images(_columns_of(source.path)):
        return CERTAIN
    return CERTAIN if source.is_folder and find_tables(source.files) else 0.0


def _read(path: str, options: ReadOptions) -> Index:
    if not Source(path).is_folder:
        return read_loaddata(path, images=options.images, metadata_value=options.metadata_value)
    tables = find_tables(Source(path).files)
    if not tables:
        raise InputError(f"{redact_credentials(path)} holds no LoadData table (load_data.csv).")
    return merge(
        [
            read_loaddata(
                posixpath.join(path, table),
                images=options.images,
                metadata_value=options.metadata_value,
            )
            for table in tqdm(tables, "tables", disable=None if len(tables) > 8 else True)
        ]
    )


READERS = (
    Reader("loaddata", "a LoadData table, or a folder of them", _read, _matches, ("images",)),
)
