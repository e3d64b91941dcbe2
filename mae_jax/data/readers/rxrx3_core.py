"""RxRx3-core: parquet tables with one row per channel, whose key names experiment to channel."""

import os
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from mae_jax.data import metadata
from mae_jax.data.index import Index
from mae_jax.data.readers.filename_patterns import RXRX_CHANNELS, name_channels
from mae_jax.data.readers.parquet_images import image_column, open_table
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import list_folder, reason
from mae_jax.errors import InputError

# gene-001/Plate1/A01_s1_3: experiment, plate, well, site, channel
_KEY = re.compile(
    r"^(?P<experiment>[^/]+)/Plate(?P<plate>[^/]+)/(?P<well>[A-Za-z]{1,2}\d+)"
    r"_s(?P<site>\d+)_(?P<channel>\d+)(?:\.\w+)?$"
)


def read_rxrx3_core(
    root: str,
    *,
    channel_names: Sequence[str] = (),
    metadata_value: Mapping[str, str] | None = None,
) -> Index:
    """The index of RxRx3-core: parquet files with one row per channel and a key that names it.

    Args:
      root: a parquet file, or the folder or URL that holds them.
      channel_names: names of the numbered channels in their order; without it those of RxRx.
      metadata_value: metadata columns set to one value for all rows.

    Raises:
      InputError: no parquet files, no key column, or a key that is not in RxRx3-core's form.
    """
    if root.endswith(".parquet"):
        root, files = os.path.dirname(root) or ".", [os.path.basename(root)]
    else:
        files = [path for path in list_folder(root) if path.endswith(".parquet")]
    rows = []
    for file in files:
        path = os.path.join(root, file)
        table = open_table(path)
        image_column(table.schema_arrow, path)
        if "__key__" not in table.schema_arrow.names:
            raise InputError(f"{path} has no column __key__ that names the images.")
        try:
            keys = table.read(columns=["__key__"]).column(0).to_pylist()
        except Exception as error:  # arrow raises exceptions of many types on damaged files
            raise InputError(f"{path} is broken ({reason(error)}); copy it again.") from None
        for number, key in enumerate(keys):
            match = _KEY.match(str(key))
            if not match:
                raise InputError(
                    f"row {number} of {path} has the key '{key}'; "
                    "expected one such as gene-001/Plate1/A01_s1_3."
                )
            rows.append({**match.groupdict(), "image": f"{file}#row={number}"})
    if not rows:
        raise InputError(f"{root} holds no parquet files with images.")
    table_of_images = pd.DataFrame(rows)
    order = sorted(table_of_images["channel"].unique(), key=int)
    if not channel_names and len(order) == len(RXRX_CHANNELS):
        channel_names = RXRX_CHANNELS
    names = name_channels(order, channel_names)
    table_of_images = table_of_images.assign(
        number=table_of_images["channel"].astype(int), channel=table_of_images["channel"].map(names)
    ).sort_values("number", kind="stable")
    keys = ["experiment", "plate", "well", "site"]
    sites = table_of_images.groupby(keys, sort=False, as_index=False).agg(
        Channels=("channel", list), Images=("image", list)
    )
    sites = sites.rename(columns={key: f"Metadata_{key.capitalize()}" for key in keys})
    metadata_value = {"Metadata_Source": "rxrx3-core", **(metadata_value or {})}
    return Index(metadata.complete(sites, root, metadata_value), root)


def _matches(source: Source) -> float:
    if source.path.lower().endswith(".parquet"):
        return CERTAIN if "__key__" in open_table(source.path).schema_arrow.names else 0.0
    return float(sum(path.endswith(".parquet") for path in source.files))


def _read(path: str, options: ReadOptions) -> Index:
    return read_rxrx3_core(
        path, channel_names=options.channel_names, metadata_value=options.metadata_value
    )


READERS = (Reader("rxrx3-core", "RxRx3-core's tables", _read, _matches, ("channel_names",)),)
