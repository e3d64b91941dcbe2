"""Writers of the two layouts of a training store: OME-Zarr 0.5 plates, ArrayRecord tiles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mae_jax.data.array_record import encode
from mae_jax.data.zarr_reader import COMPLETE
from mae_jax.errors import MachineError
from mae_jax.files import replacing, write_json
from mae_jax.nn.tiling import tile_offsets

Site = Shaped[np.ndarray, "channels height width"]
_AXES = [
    {"name": "c", "type": "channel"},
    {"name": "y", "type": "space"},
    {"name": "x", "type": "space"},
]
_COLORS = ("0000FF", "00FF00", "FF0000", "FFFF00", "FF00FF", "00FFFF", "FFFFFF")


def write_ome_zarr_image(
    folder: Path,
    site: Site,
    channels: Sequence[str],
    chunk: int,
    own: Mapping[str, Any],
) -> None:
    """Writes one field of view as an OME-Zarr 0.5 image, whole or not at all.

    The array is one shard, a single file, made of chunks of `chunk`² pixels of all channels: a
    random crop then reads little besides what it needs, and all its channels at once. Chunks carry
    a checksum, so that damage is noticed when they are read, and black ones are stored as well, so
    that a missing file is an error and not a black image.

    Args:
      folder: the image's group, `plate.zarr/A/1/0`.
      site: the pixels.
      channels: the channels' names.
      chunk: side of a chunk in pixels.
      own: attributes to store besides those of OME (metadata, gray range).
    """
    import tensorstore

    count, height, width = site.shape
    side = [-(-length // chunk) * chunk for length in (height, width)]
    dtype = site.dtype
    packed: dict[str, Any] = {
        "name": "blosc",
        "configuration": {
            # Of what was tried, the fastest to decode: on real images a fifth faster than lz4 of
            # shuffled bits, which is as large. zstd makes files a quarter smaller, but takes 1.7
            # times as long. Bytes of one kind side by side: nothing to do for 8 bits.
            "cname": "lz4hc",
            "clevel": 5,
            "shuffle": "shuffle",
            "typesize": dtype.itemsize,
            "blocksize": 0,
        },
    }
    plain: list[dict[str, Any]] = [{"name": "bytes"}]
    if dtype.itemsize > 1:
        plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
    sharded = {
        "chunk_shape": [count, chunk, chunk],
        "codecs": [*plain, packed, {"name": "crc32c"}],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    metadata = {
        "shape": [count, height, width],
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [count, *side]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "sharding_indexed", "configuration": sharded}],
        "dimension_names": ["c", "y", "x"],
        "attributes": {"mae_jax": {COMPLETE: True}},
    }
    with replacing(folder) as tmp_path:
        try:
            array = tensorstore.open(
                {
                    "driver": "zarr3",
                    "kvstore": {"driver": "file", "path": f"{tmp_path}/0/"},
                    "metadata": metadata,
                    "store_data_equal_to_fill_value": True,
                },
                create=True,
            ).result()
            array[...] = site
        except ValueError as error:  # the folder can be written: the disk is full, or fails
            reason = str(error).split(" [")[0]
            raise MachineError(f"{folder} cannot be written ({reason}).") from error
        ome = {
            "multiscales": [
                {
                    "name": folder.name,
                    "axes": _AXES,
                    "datasets": [
                        {
                            "path": "0",
                            "coordinateTransformations": [
                                {"type": "scale", "scale": [1.0, 1.0, 1.0]}
                            ],
                        }
                    ],
                }
            ],
            "omero": {"channels": _omero(channels, site)},
        }
        write_group(tmp_path, ome, own)


def _omero(channels: Sequence[str], site: Site) -> list[dict[str, Any]]:
    entries = []
    for number, (name, plane) in enumerate(zip(channels, site, strict=True)):
        low, high = float(plane.min()), float(plane.max())
        window = {"min": low, "max": high, "start": low, "end": high}
        color = _COLORS[number % len(_COLORS)]
        entries.append({"label": name, "color": color, "active": True, "window": window})
    return entries


def write_group(
    folder: Path, ome: Mapping[str, Any] | None, own: Mapping[str, Any] | None = None
) -> None:
    """Writes the attributes of a Zarr group of version 3."""
    attributes: dict[str, Any] = {}
    if ome is not None:
        attributes["ome"] = {"version": "0.5", **ome}
    if own:
        attributes["mae_jax"] = dict(own)
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_json(folder / "zarr.json", group)


def write_plate(folder: Path, name: str, wells: Mapping[str, int]) -> None:
    """Writes the attributes of a plate, its rows and its wells.

    Args:
      folder: the plate's group.
      name: the plate's name.
      wells: for each well ('B07') the number of its fields.
    """
    letters = {well: well.rstrip("0123456789") for well in wells}
    positions = {well: (row, str(int(well.removeprefix(row)))) for well, row in letters.items()}
    rows = sorted({row for row, _ in positions.values()}, key=lambda row: (len(row), row))
    columns = sorted({column for _, column in positions.values()}, key=int)
    for row in rows:
        write_group(folder / row, None)
    for well, (row, column) in positions.items():
        images = [{"path": str(number)} for number in range(wells[well])]
        write_group(folder / row / column, {"well": {"images": images}})
    plate = {
        "name": name,
        "field_count": max(wells.values()),
        "columns": [{"name": column} for column in columns],
        "rows": [{"name": row} for row in rows],
        "wells": [
            {
                "path": f"{row}/{column}",
                "rowIndex": rows.index(row),
                "columnIndex": columns.index(column),
            }
            for row, column in positions.values()
        ],
    }
    write_group(folder, {"plate": plate})


def write_tiles(path: Path, sites: Sequence[Site], tile: int) -> list[list[tuple[int, int]]]:
    """Writes the tiles of some sites as one ArrayRecord file, whole or not at all.

    Returns: for each site the top-left corners of its tiles, in the order of the records.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    corners = []
    with replacing(path) as tmp_path:
        # Uncompressed and one record a group: a random tile is one read of its own bytes.
        try:
            writer = ArrayRecordWriter(str(tmp_path), "group_size:1,uncompressed")
            for site in sites:
                of_site = [
                    (int(y), int(x)) for y, x in tile_offsets(site.shape[1], site.shape[2], tile)
                ]
                for top, left in of_site:
                    writer.write(encode(site[:, top : top + tile, left : left + tile]))
                corners.append(of_site)
            writer.close()
        except RuntimeError as error:
            raise MachineError(f"{path} cannot be written ({error}).") from error
    return corners
