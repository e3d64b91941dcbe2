"""Open a screen: detect the format and call its reader."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

from mae_jax.config import nearest
from mae_jax.data.index import Index
from mae_jax.data.metadata import complete, join
from mae_jax.data.readers import (
    filename_patterns,
    harmony,
    loaddata,
    ome_zarr,
    plain_images,
    rxrx3_core,
    samplesheet,
    site_arrays,
    zarr_array,
)
from mae_jax.data.readers.merge import merge
from mae_jax.data.readers.name_templates import what_to_try
from mae_jax.data.readers.registry import (
    CERTAIN,
    Reader,
    ReadOptions,
    Source,
    readers,
    register_reader,
)
from mae_jax.data.readers.tables import read_table
from mae_jax.data.storage import exists
from mae_jax.errors import InputError, redact_credentials


def _matches_index(source: Source) -> float:
    if source.is_folder:
        return CERTAIN if exists(posixpath.join(source.path, "pack.json")) else 0.0
    return 1.0 if source.path.lower().endswith(".parquet") else 0.0


def _read_index(path: str, options: ReadOptions) -> Index:
    index = Index.read(path)
    return Index(complete(index.table, path, options.metadata_value), index.root)


for _reader in (
    *site_arrays.READERS,  # before any that lists all files
    *samplesheet.READERS,
    *loaddata.READERS,
    Reader("index", "an index or a packed store", _read_index, _matches_index),
    *zarr_array.READERS,
    *ome_zarr.READERS,
    *harmony.READERS,
    *filename_patterns.READERS,
    *rxrx3_core.READERS,
    *plain_images.READERS,
):
    register_reader(_reader)


def open_screen(
    source: str | Sequence[str],
    *,
    format: str = "auto",
    images: str | None = None,
    channel_names: Sequence[str] = (),
    metadata: str | None = None,
    metadata_value: Mapping[str, str] | None = None,
    plane: int | str | None = None,
    time: int | None = None,
    pattern: str | None = None,
) -> Index:
    """The index of `source`: an index, a LoadData CSV, a folder, a table or an array of images.

    Args:
      source: path or URL, or several, whose rows become one index.
      format: the name of a registered reader; 'auto' looks at the source.
      images: folder or URL of a LoadData CSV's images, if it is not the CSV's own.
      channel_names: names for a folder's numbered channels; see `read_folder`.
      metadata: a CSV, TSV or Parquet table of wells (a platemap), or a folder of platemaps with
        their barcodes, joined to the sites; see `metadata.join` and `read_table`.
      metadata_value: metadata columns with one value for all sites; `Metadata_` may be left out.
      plane, time: z-plane and time point, where a folder holds several; as plane also 'max' or
        'mean', for a projection.
      pattern: what a folder's file names say, such as
        '{Metadata_Well}_{Metadata_Site}_{channel}.tif', or a regular expression with named groups;
        see `mae_jax.data.readers.name_templates`.

    Raises:
      InputError: the source is missing, of no known format, or wrong, or an option does not belong
        to its format.
    """
    known = readers()
    if format != "auto" and format not in known:
        raise InputError(f"there is no format '{format}': {nearest(format, ['auto', *known])}")
    sources = [source] if isinstance(source, str) else list(source)
    options = ReadOptions(
        images=images,
        channel_names=channel_names,
        metadata=metadata,
        metadata_value={
            name if name.startswith("Metadata_") else f"Metadata_{name}": value
            for name, value in (metadata_value or {}).items()
        },
        plane=plane,
        time=time,
        pattern=pattern,
    )
    indexes = []
    for path in dict.fromkeys(path.rstrip("/") or path for path in sources):
        reader = known[screen_format(path, format, pattern)]
        _check_options(path, reader, options)
        indexes.append(reader.read(path, options))
    index = merge(indexes)
    if metadata and "metadata" not in reader.takes:
        table = join(index.table, read_table(metadata), metadata)
        index = replace(index, table=complete(table, metadata, options.metadata_value))
    return index


def screen_format(path: str, format: str = "auto", pattern: str | None = None) -> str:
    """The name of the reader that `open_screen` calls for a source with these options.

    Raises:
      InputError: the format is to be guessed, and the source is missing or of no known one.
    """
    if format != "auto":
        return format
    return "pattern" if pattern is not None else guess(path.rstrip("/") or path)


def _check_options(source: str, reader: Reader, options: ReadOptions) -> None:
    if options.images is not None and "images" not in reader.takes:
        raise InputError(
            f"{source} is no LoadData table (its format is {reader.name}), and its images "
            "cannot be moved with --images; make a new index of the moved images."
        )
    for option in fields(options):
        given = getattr(options, option.name) not in (None, (), [])
        if given and option.name not in (*reader.takes, "metadata", "metadata_value"):
            raise InputError(
                f"{source} has the format {reader.name}, which takes no "
                f"--{option.name.replace('_', '-')}; leave it out."
            )


def guess(path: str) -> str:
    """The format of a source: the name of the reader whose `matches` gives the highest score.

    Raises:
      InputError: it is missing or of no known format.
    """
    source = Source(path)
    best, highest = "", 0.0
    for reader in readers().values():
        score = reader.matches(source)
        if score == CERTAIN:
            return reader.name
        if score > highest:
            best, highest = reader.name, score
    if best:
        return best
    if source.is_folder:
        raise InputError(what_to_try(redact_credentials(path), source.files))
    if not os.path.exists(path):
        raise InputError(f"{path} does not exist; check the path.")
    raise InputError(f"{path} is of no known format; choose one with --format.")
