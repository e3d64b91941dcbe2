"""Sample sheets, as nf-core's pipelines take them: a CSV that names one image file per row.

`channel,path,batch,plate,well,site` (nf-core/cellpainting) has a row per channel; without a column
`channel` each file holds all its channels; `sample,nuclear_image,membrane_image` has a column per
channel. `sample` takes the well's place where no wells are named.
"""

import gzip
import os
import posixpath
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from mae_jax.data.image_uri import is_url, relative, resolve
from mae_jax.data.index import Index
from mae_jax.data.metadata import metadata_name
from mae_jax.data.readers.file_table import FIELDS, index_of_files
from mae_jax.data.readers.loaddata import names_images, read_csv
from mae_jax.data.readers.name_templates import field_of
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import read_bytes
from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError, redact_credentials

_PATHS = ("path", "image", "image_path", "imagepath", "file", "filename", "filepath", "file_path",
          "uri", "url", "tif", "tiff")  # fmt: skip
_IMAGE_SUFFIX = "_image"


def read_samplesheet(path: str, options: ReadOptions) -> Index:
    """The index of a sample sheet; file paths count from the sheet's folder, or `--images`.

    Raises:
      InputError: the sheet has no rows, no column of files or of wells or samples, or a cell that
        makes no sense.
    """
    table = read_csv(path)
    shown = redact_credentials(path)
    root = options.images if options.images is not None else (posixpath.dirname(path) or ".")
    columns = list(table.columns)
    own = _path_column(columns)
    wide = [] if own else _wide_columns(columns)
    if table.empty or not (own or wide):
        lacking = "has no rows" if table.empty else f"names no files ({', '.join(_PATHS[:3])})"
        raise InputError(f"{shown} {lacking}; it should have one row per image.")
    fields = {column: field_of(column) for column in columns}
    if not set(fields.values()) & {"well", "sample"} and not {"row", "column"} <= set(
        fields.values()
    ):
        raise InputError(f"{shown} has no column well (or row and column), and no column sample.")
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(table.to_dict("records"), start=1):
        values = {fields[str(column)]: str(text).strip() for column, text in record.items()}
        base = {field: values.get(field, "") for field in FIELDS}
        base |= {
            metadata_name(column).removeprefix("Metadata_"): values[fields[column]]
            for column in columns
            if fields[column] not in (*FIELDS, "row", "column", "sample", own, *wide)
        }
        try:
            base["well"] = _well(values)
        except InputError as error:
            raise InputError(f"row {number} of {shown}: {error}") from None
        if values.get("sample"):
            base["Sample"] = values["sample"]
        base["plate"] = base["plate"] or "1"
        base["site"] = base["site"] or "1"
        for column in [own] if own else wide:
            file = str(record[column]).strip()
            if not file and wide:
                continue
            if not file:
                raise InputError(f"row {number} of {shown} names no file; fill or delete it.")
            channel = base["channel"] if own else column[: -len(_IMAGE_SUFFIX)]
            uri = relative(root, resolve(root, file))
            rows.append({**base, "path": uri, "channel": channel})
    if not rows:
        raise InputError(f"{shown} names no files; fill its columns {', '.join(wide)}.")
    return index_of_files(
        rows,
        root,
        stacks=bool(own) and "channel" not in fields.values(),
        channel_names=options.channel_names,
        metadata_value=options.metadata_value,
        plane=options.plane,
        time=options.time,
    )


def _well(values: dict[str, str]) -> str:
    if values.get("well"):
        if values.get("well") == values.get("sample"):
            return values["well"]
        return normalize_well_name(values["well"])
    if values.get("row") and values.get("column"):
        row, column = values["row"], values["column"]
        if row.isdecimal() and column.isdecimal():
            return well_name(int(row), int(column))
        return normalize_well_name(row + column)
    if values.get("sample"):
        return values["sample"]
    raise InputError("it names no well and no sample.")


def _path_column(columns: Sequence[str]) -> str:
    known = {column.lower().removeprefix("metadata_"): column for column in columns}
    return next((known[name] for name in _PATHS if name in known), "")


def _wide_columns(columns: Sequence[str]) -> list[str]:
    return [column for column in columns if column.lower().endswith(_IMAGE_SUFFIX)]


def _header(path: str) -> list[str]:
    """The names of a CSV's columns, of its first line alone where the file is local."""
    if is_url(path):
        raw = read_bytes(path)
    elif os.path.isfile(path):
        with open(path, "rb") as file:
            raw = file.read(1 << 16)
    else:
        return []
    if raw[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path if not is_url(path) else BytesIO(raw)) as packed:
                raw = packed.read(1 << 16)
        except (OSError, EOFError):
            return []
    line = raw.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()
    separator = "\t" if "\t" in line else ","
    return [name.strip().strip('"') for name in line.split(separator)]


def _matches(source: Source) -> float:
    plain = source.path.lower().removesuffix(".gz")
    if not plain.endswith((".csv", ".tsv")):
        return 0.0
    columns = _header(source.path)
    names_files = bool(_path_column(columns)) or len(_wide_columns(columns)) > 1
    return CERTAIN if names_files and not names_images(columns) else 0.0


READERS = (
    Reader(
        "samplesheet",
        "a sample sheet (nf-core): a CSV with a file per row, its channel, well and plate",
        read_samplesheet,
        _matches,
        ("images", "channel_names", "plane", "time"),
    ),
)
