"""Plain Zarr arrays with the axes site, channel, y, x, and a table of their sites.

A folder that holds one such array with `sites.csv`, and perhaps `channels.csv` (one name per row,
in a column `channel`), beside or above it is read as it is.
"""

import os
import posixpath
from collections.abc import Mapping, Sequence

import pandas as pd

from mae_jax.data import metadata
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_csv
from mae_jax.data.readers.ome_zarr import is_array
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError

_MOST_NODES = 8  # groups and arrays of a folder that is looked through


def read_zarr_array(
    path: str,
    sites: str,
    *,
    channel_names: Sequence[str],
    metadata_value: Mapping[str, str] | None = None,
) -> Index:
    """The index of a plain Zarr array with the axes site, channel, y, x.

    Args:
      path: the array, local or URL.
      sites: a CSV with one row per site: its columns are metadata, `idx` the site's index in the
        array (the row's number without it).
      channel_names: names of the channels in their order.
      metadata_value: metadata columns set to one value for all rows.

    Raises:
      InputError: the array has other axes, or the numbers of sites or names do not fit it.
    """
    array = open_array(path)
    shape = tuple(array.shape)
    if len(shape) != 4:
        raise InputError(f"{path} has the shape {shape}; expected site, channel, y, x.")
    if len(channel_names) != shape[1]:
        raise InputError(
            f"{path} has {shape[1]} channels; name each with --channel-names, in their order."
        )
    table = read_csv(sites)
    try:
        numbers = [int(n) for n in table.pop("idx")] if "idx" in table else [*range(len(table))]
    except ValueError as error:
        raise InputError(f"{sites} has an idx that is no whole number ({error}).") from None
    beyond = [number for number in numbers if not 0 <= number < shape[0]]
    if beyond:
        raise InputError(f"{sites} names site {beyond[0]}, but {path} holds {shape[0]} sites.")
    table.columns = [c if c.startswith("Metadata_") else f"Metadata_{c}" for c in table.columns]
    root, name = os.path.split(path.rstrip("/"))
    images = [[f"{name}#index={n},{c}" for c in range(shape[1])] for n in numbers]
    table["Channels"] = [list(channel_names)] * len(table)
    table["Images"] = images
    return Index(metadata.complete(table, sites, metadata_value), root or ".")


def _find(source: Source) -> str | None:
    """The array's path: the source itself, or the only array with four axes below it."""
    if is_array(source.path):
        return source.path
    files = [f for f in source.files if posixpath.basename(f) in ("zarr.json", ".zarray")]
    if not files or len(files) > _MOST_NODES:
        return None
    folders = (posixpath.join(source.path, posixpath.dirname(file)) for file in files)
    arrays = [folder for folder in folders if is_array(folder)]
    return arrays[0] if len(arrays) == 1 else None


def _beside(source: Source, name: str) -> str | None:
    """The path of a table somewhere in the source's folder."""
    found = [file for file in source.files if posixpath.basename(file) == name]
    return posixpath.join(source.path, found[0]) if len(found) == 1 else None


def _matches(source: Source) -> float:
    if not source.is_folder:
        return 0.0
    if is_array(source.path):
        return CERTAIN
    return 1.0 if _beside(source, "sites.csv") and _find(source) else 0.0


def _read(path: str, options: ReadOptions) -> Index:
    source = Source(path)
    array = _find(source)
    if array is None:
        raise InputError(f"{path} is no Zarr array, and does not hold just one.")
    sites = options.metadata or _beside(source, "sites.csv")
    if sites is None:
        raise InputError(f"{path} needs a table of its sites: give it with --metadata.")
    names = options.channel_names
    if not names and (table := _beside(source, "channels.csv")):
        names = read_csv(table).get("channel", pd.Series(dtype=str)).tolist()
    return read_zarr_array(array, sites, channel_names=names, metadata_value=options.metadata_value)


READERS = (
    Reader(
        "zarr",
        "a Zarr array with the axes site, channel, y, x",
        _read,
        _matches,
        ("channel_names", "metadata"),
    ),
)
