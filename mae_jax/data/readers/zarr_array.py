"""Plain Zarr arrays with the axes site, channel, y, x, and a table of their sites."""

import os
from collections.abc import Mapping, Sequence

from mae_jax.data import metadata
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_csv
from mae_jax.data.readers.ome_zarr import is_array
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError


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


def _matches(source: Source) -> float:
    return CERTAIN if source.is_folder and is_array(source.path) else 0.0


def _read(path: str, options: ReadOptions) -> Index:
    if options.metadata is None:
        raise InputError(f"{path} needs a table of its sites: give it with --metadata.")
    return read_zarr_array(
        path,
        options.metadata,
        channel_names=options.channel_names,
        metadata_value=options.metadata_value,
    )


READERS = (
    Reader(
        "zarr",
        "a Zarr array with the axes site, channel, y, x",
        _read,
        _matches,
        ("channel_names", "metadata"),
    ),
)
