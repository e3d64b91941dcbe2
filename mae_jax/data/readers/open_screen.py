"""One index out of any source: finds out its format and calls the reader for it."""

import os
import posixpath
import re
from collections.abc import Mapping, Sequence

from mae_jax.config import nearest
from mae_jax.data import metadata
from mae_jax.data.image_uri import is_url
from mae_jax.data.index import Index
from mae_jax.data.readers.filename_patterns import PATTERNS, Pattern, list_files, read_folder
from mae_jax.data.readers.loaddata import read_csv, read_loaddata
from mae_jax.data.readers.ome_zarr import find_plates, is_array, is_plate, read_ome_zarr
from mae_jax.data.readers.parquet_images import open_table
from mae_jax.data.readers.rxrx3_core import read_rxrx3_core
from mae_jax.data.readers.zarr_array import read_zarr_array
from mae_jax.data.storage import exists, list_remote
from mae_jax.errors import InputError

FORMATS = ("auto", "index", "loaddata", *PATTERNS, "ome-zarr", "rxrx3-core", "zarr")


def open_screen(
    source: str,
    *,
    format: str = "auto",
    images: str | None = None,
    channel_names: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    annotation: str | None = None,
    plane: int | str | None = None,
    time: int | None = None,
    pattern: str | None = None,
) -> Index:
    """The index of `source`: an index, a LoadData CSV, a folder, a table or an array of images.

    Args:
      source: path or URL.
      format: one of `FORMATS`; 'auto' looks at the source.
      images: where a LoadData CSV's images lie, if not beside it.
      channel_names: names for a folder's numbered channels; see `read_folder`.
      fixed: metadata columns with one value for all sites.
      annotation: a CSV or TSV of wells (a platemap), joined to the sites; see `metadata.join`.
      plane, time: z-plane and time point, where a folder holds several.
      pattern: a regular expression for a folder's file names in place of a known format, with the
        named groups of `mae_jax.data.readers.filename_patterns`.

    Raises:
      InputError: the source is missing, of no known format, or wrong.
    """
    if format not in FORMATS:
        raise InputError(f"there is no format '{format}': {nearest(format, FORMATS)}")
    source = source.rstrip("/") or source
    if pattern is not None:
        format = "pattern"
    elif format == "auto":
        format = guess(source)
    if images is not None and format != "loaddata":
        raise InputError(
            f"{source} is no LoadData CSV (its format is {format}), and its images cannot be moved "
            "with --images; make a new index of the moved images."
        )
    if format == "index":
        index = Index.read(source)
        index = Index(metadata.complete(index.table, source, fixed), index.root)
    elif format == "loaddata":
        index = read_loaddata(source, images=images, fixed=fixed)
    elif format == "ome-zarr":
        index = read_ome_zarr(
            source,
            plates=find_plates(source),
            channel_names=channel_names,
            fixed=fixed,
            plane=_number_of_plane(plane),
            time=time,
        )
    elif format == "rxrx3-core":
        index = read_rxrx3_core(source, channel_names=channel_names, fixed=fixed)
    elif format == "zarr":
        if annotation is None:
            raise InputError(f"{source} needs a table of its sites: give it with --metadata.")
        return read_zarr_array(source, annotation, channel_names=channel_names, fixed=fixed)
    else:
        index = read_folder(
            source,
            PATTERNS[format] if pattern is None else _own_pattern(pattern),
            channel_names=channel_names,
            fixed=fixed,
            plane=plane,
            time=time,
        )
    if annotation:
        table = metadata.join(index.table, read_csv(annotation), annotation)
        index = Index(metadata.complete(table, annotation, fixed), index.root)
    return index


def _number_of_plane(plane: int | str | None) -> int | None:
    if isinstance(plane, str):
        raise InputError(f"--plane is '{plane}'; OME-Zarr has numbered planes, from 0.")
    return plane


def _own_pattern(expression: str) -> Pattern:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise InputError(f"--pattern is not a regular expression: {error}.") from None
    groups = compiled.groupindex
    if "well" not in groups and not {"row", "column"} <= set(groups):
        raise InputError("--pattern must name the well: (?P<well>…), or (?P<row>…)(?P<column>…).")
    return Pattern("pattern", compiled)


def guess(source: str) -> str:
    """The format of a source by its name and, for a folder, by its files.

    Raises:
      InputError: it is missing or of no known format.
    """
    plain = source.removesuffix(".gz").lower()
    if plain.endswith((".csv", ".tsv")):
        return "loaddata"
    if plain.endswith(".parquet"):
        return "rxrx3-core" if "__key__" in open_table(source).schema_arrow.names else "index"
    if is_plate(source):
        return "ome-zarr"
    if is_url(source) or os.path.isdir(source):
        if exists(posixpath.join(source, "load_data.csv")):
            raise InputError(f"{source} holds a load_data.csv: name that file as the source.")
        if exists(posixpath.join(source, "pack.json")):  # a store, with an index of its own
            return "index"
        if is_array(source):
            return "zarr"
        files = list_remote(source) if is_url(source) else list_files(source)
        counts = {
            name: sum(bool(pattern.expression.search(path)) for path in files)
            for name, pattern in PATTERNS.items()
        }
        counts["rxrx3-core"] = sum(path.endswith(".parquet") for path in files)
        best = max(counts, key=counts.__getitem__)
        if counts[best]:
            return best
        if find_plates(source):
            return "ome-zarr"
        raise InputError(
            f"the files in {source} fit no known pattern; see the formats with `mae-jax index -h`."
        )
    if not os.path.exists(source):
        raise InputError(f"{source} does not exist; check the path.")
    raise InputError(f"{source} is of no known format; choose one with --format.")
