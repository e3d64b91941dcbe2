"""OME-Zarr plates (HCS), 0.4 on Zarr version 2 and 0.5 on version 3: indexes of what others wrote.

A plate's attributes list its wells, a well's its fields, a field's its resolutions, axes and the
channels' labels (`omero.channels[].label`). The finest resolution is taken.
"""

import json
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd

from mae_jax.data import image_uri, metadata
from mae_jax.data.index import Index
from mae_jax.data.storage import exists, list_remote, read_bytes
from mae_jax.errors import InputError


def is_plate(path: str) -> bool:
    """Whether there is an OME-Zarr plate at the path or URL."""
    try:
        return "plate" in _ome(path)
    except InputError:
        return False


def is_array(path: str) -> bool:
    """Whether the path or URL is a Zarr array by itself."""
    try:
        return bool(_shape(path))
    except (InputError, KeyError):
        return False


def read_ome_zarr(
    root: str,
    *,
    plates: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    fixed: Mapping[str, str] | None = None,
    plane: int | None = None,
    time: int | None = None,
    threads: int = 16,
) -> Index:
    """The index of one OME-Zarr plate, or of several below one folder.

    Args:
      root: the plate, or the folder that `plates` count from.
      plates: paths below `root`; empty where `root` is the plate.
      channel_names: names in place of the labels, in the channels' order.
      fixed: metadata columns set to one value for all rows.
      plane, time: z-plane and time point (from 0), where the images have several.
      threads: metadata files read at once.

    Raises:
      InputError: no plate, attributes that are missing or against the standard, channels without
        labels and names, or several planes or times and none chosen.
    """
    rows: list[dict[str, Any]] = []
    for inside in plates or [""]:
        place = posixpath.join(root, inside) if inside else root
        attributes = _ome(place)
        if "plate" not in attributes:
            raise InputError(f"{place} is no OME-Zarr plate: its attributes name no plate.")
        plate = attributes["plate"]
        name = plate.get("name") or posixpath.basename(place.rstrip("/")).split(".")[0]
        wells = [well["path"] for well in plate.get("wells", [])]

        def fields(well: str, place: str = place) -> list[tuple[str, str, dict[str, Any]]]:
            images = _ome(posixpath.join(place, well)).get("well", {}).get("images", [])
            return [
                (well, image["path"], _ome(posixpath.join(place, well, image["path"])))
                for image in images
            ]

        with ThreadPoolExecutor(threads) as pool:
            found = [field for of_well in pool.map(fields, wells) for field in of_well]
        for well, path, image in found:
            where = posixpath.join(inside, well, path)
            names, images = _channels(root, where, image, channel_names, plane, time)
            rows.append(
                {
                    "Metadata_Plate": str(name),
                    "Metadata_Well": "".join(well.split("/")[-2:]),
                    "Metadata_Site": str(int(path) + 1) if path.isdigit() else path,
                    **image.get("mae_jax", {}).get("metadata", {}),
                    "Channels": names,
                    "Images": images,
                }
            )
    if not rows:
        raise InputError(f"{root} has no wells with images.")
    return Index(metadata.complete(pd.DataFrame(rows), root, fixed), root)


def find_plates(root: str) -> list[str]:
    """Paths of the OME-Zarr plates below a folder, relative to it."""
    if is_plate(root):
        return []
    if image_uri.is_url(root):
        names = {
            path.partition(".zarr/")[0] + ".zarr" for path in list_remote(root) if ".zarr/" in path
        }
        return sorted(name for name in names if is_plate(posixpath.join(root, name)))
    import os

    found = []
    for folder, folders, _ in os.walk(root):
        for name in [n for n in folders if n.endswith(".zarr")]:
            folders.remove(name)
            if is_plate(os.path.join(folder, name)):
                found.append(os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/"))
    return sorted(found)


def _ome(path: str) -> dict[str, Any]:
    """The OME attributes of the group at `path`, alike for 0.4 and 0.5."""
    three = posixpath.join(path, "zarr.json")
    two = posixpath.join(path, ".zattrs")
    file = three if exists(three) else two
    try:
        found = json.loads(read_bytes(file))
    except ValueError as problem:
        if isinstance(problem, InputError):
            raise InputError(f"{path} has no OME-Zarr attributes ({problem})") from None
        raise InputError(f"{file} is not valid JSON ({problem}); write it anew.") from None
    attributes = found
    if file == three:
        inside = found.get("attributes", {})
        attributes = {**inside.get("ome", {}), "mae_jax": inside.get("mae_jax", {})}
    return attributes if isinstance(attributes, dict) else {}


def _channels(
    root: str,
    where: str,
    image: Mapping[str, Any],
    channel_names: Sequence[str],
    plane: int | None,
    time: int | None,
) -> tuple[list[str], list[str]]:
    try:
        scale = image["multiscales"][0]
        array = posixpath.join(where, scale["datasets"][0]["path"])
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scale["axes"]]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{posixpath.join(root, where)} names no multiscales with axes.") from None
    if axes[-2:] != ["y", "x"]:
        raise InputError(f"{posixpath.join(root, where)} has the axes {axes}; y, x must be last.")
    shape = _shape(posixpath.join(root, array))
    sizes = dict(zip(axes, shape, strict=True))
    for axis, chosen, option in (("z", plane, "--plane"), ("t", time, "--time")):
        if sizes.get(axis, 1) > 1 and chosen is None:
            raise InputError(
                f"{posixpath.join(root, where)} has {sizes[axis]} {axis} positions; "
                f"choose one with {option}."
            )
    labels = [c.get("label") for c in image.get("omero", {}).get("channels", [])]
    count = sizes.get("c", 1)
    names = list(channel_names) or [str(label) for label in labels]
    if len(names) != count or not all(labels[: len(names)] or channel_names):
        raise InputError(
            f"{posixpath.join(root, where)} has {count} channels and {len(names)} names; "
            "give one each with --channel-names."
        )
    at = {"z": plane or 0, "t": time or 0}
    images = []
    for channel in range(count):
        cell = [channel if axis == "c" else at.get(axis, 0) for axis in axes[:-2]]
        images.append(f"{array}#index={','.join(map(str, cell))}")
    return names, images


def _shape(path: str) -> list[int]:
    for name in ("zarr.json", ".zarray"):
        file = posixpath.join(path, name)
        if exists(file):
            return list(json.loads(read_bytes(file))["shape"])
    raise InputError(f"{path} is no Zarr array: it has neither zarr.json nor .zarray.")
