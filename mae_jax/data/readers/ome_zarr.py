"""OME-Zarr plates (HCS), 0.4 on Zarr version 2 and 0.5 on version 3.

A plate's attributes list its wells, a well's its fields, a field's its resolutions, axes and the
channels' labels (`omero.channels[].label`). The finest resolution is taken.
"""

import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pandas as pd

from mae_jax.data import image_uri, metadata
from mae_jax.data.image_uri import PROJECTIONS
from mae_jax.data.index import Index
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source
from mae_jax.data.storage import exists, list_remote, read_bytes
from mae_jax.errors import InputError, redact_credentials

Attributes = dict[str, Any]  # of a Zarr group, as JSON


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
    except InputError:
        return False


def read_ome_zarr(
    root: str,
    *,
    plates: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    metadata_value: Mapping[str, str] | None = None,
    plane: int | str | None = None,
    time: int | None = None,
    threads: int = 16,
) -> Index:
    """The index of one OME-Zarr plate, or of several below one folder.

    Args:
      root: the plate, or the folder that `plates` count from.
      plates: paths below `root`; empty where `root` is the plate.
      channel_names: names in place of the labels, in the channels' order.
      metadata_value: metadata columns set to one value for all rows.
      plane, time: z-plane and time point (from 0), where the images have several; as plane also
        'max' or 'mean', for a projection made while reading.
      threads: metadata files read at once.

    Raises:
      InputError: no plate, attributes that are missing or against the standard, channels without
        labels and names, or several planes or times and none chosen.
    """
    rows: list[dict[str, Any]] = []
    for inside in plates or [""]:
        plate_path = posixpath.join(root, inside) if inside else root
        with _standard(plate_path):
            attributes = _ome(plate_path)
            if "plate" not in attributes:
                raise InputError(
                    f"{redact_credentials(plate_path)} is no OME-Zarr plate: its attributes name "
                    "no plate."
                )
            plate = attributes["plate"]
            name = plate.get("name") or posixpath.basename(plate_path.rstrip("/")).split(".")[0]
            wells = [str(well["path"]) for well in plate.get("wells", [])]

        def fields(well: str, plate_path: str = plate_path) -> list[tuple[str, str, Attributes]]:
            well_path = posixpath.join(plate_path, well)
            with _standard(well_path):
                images = _ome(well_path).get("well", {}).get("images", [])
                paths = [str(image["path"]) for image in images]
            return [(well, path, _ome(posixpath.join(well_path, path))) for path in paths]

        with ThreadPoolExecutor(threads) as pool:
            images = [field for of_well in pool.map(fields, wells) for field in of_well]
        for well, path, image in images:
            image_path = posixpath.join(inside, well, path)
            with _standard(posixpath.join(root, image_path)):
                names, uris = _channels(root, image_path, image, channel_names, plane, time)
                own = image.get("mae_jax", {}).get("metadata", {})
                rows.append(
                    {
                        "Metadata_Plate": str(name),
                        "Metadata_Well": "".join(well.split("/")[-2:]),
                        "Metadata_Site": str(int(path) + 1) if path.isdecimal() else path,
                        **{str(column): str(value) for column, value in own.items()},
                        "Channels": names,
                        "Images": uris,
                    }
                )
    if not rows:
        raise InputError(f"{redact_credentials(root)} has no wells with images.")
    return Index(
        metadata.complete(pd.DataFrame(rows), redact_credentials(root), metadata_value), root
    )


@contextmanager
def _standard(path: str) -> Iterator[None]:
    """Turns errors of attributes that are not as the standard says into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:100]}"
        raise InputError(
            f"{redact_credentials(path)} has attributes against the OME-Zarr standard ({reason})."
        ) from None


def find_plates(root: str) -> list[str]:
    """Paths of the OME-Zarr plates below a folder, relative to it."""
    if is_plate(root):
        return []
    if image_uri.is_url(root):
        names = {
            path.partition(".zarr/")[0] + ".zarr" for path in list_remote(root) if ".zarr/" in path
        }
        return sorted(name for name in names if is_plate(posixpath.join(root, name)))
    plates = []
    for folder, folders, _ in os.walk(root):
        for name in [n for n in folders if n.endswith(".zarr")]:
            folders.remove(name)
            path = os.path.join(folder, name)
            if is_plate(path):
                plates.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return sorted(plates)


def _ome(path: str) -> Attributes:
    """The OME attributes of the group at `path`, in one form for 0.4 and 0.5."""
    v3 = posixpath.join(path, "zarr.json")
    file = v3 if exists(v3) else posixpath.join(path, ".zattrs")
    shown = redact_credentials(path)
    try:
        attributes = _read_json(file)
    except InputError as error:
        raise InputError(f"{shown} has no OME-Zarr attributes ({error})") from None
    if file == v3:
        own = attributes.get("attributes")
        own = own if isinstance(own, dict) else {}
        ome = own.get("ome")
        attributes = {**(ome if isinstance(ome, dict) else {}), "mae_jax": own.get("mae_jax", {})}
    return attributes


def _read_json(file: str) -> Attributes:
    shown = redact_credentials(file)
    try:
        attributes = json.loads(read_bytes(file))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown} is not valid JSON ({error}); write it anew.") from None
    if not isinstance(attributes, dict):
        raise InputError(f"{shown} is not a JSON object; write it anew.")
    return attributes


def _channels(
    root: str,
    image_path: str,
    image: Attributes,
    channel_names: Sequence[str],
    plane: int | str | None,
    time: int | None,
) -> tuple[list[str], list[str]]:
    shown = redact_credentials(posixpath.join(root, image_path))
    try:
        scale = image["multiscales"][0]
        array = posixpath.join(image_path, scale["datasets"][0]["path"])
        axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scale["axes"]]
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{shown} names no multiscales with axes.") from None
    if axes[-2:] != ["y", "x"]:
        raise InputError(f"{shown} has the axes {axes}; y, x must be last.")
    shape = _shape(posixpath.join(root, array))
    sizes = dict(zip(axes, shape, strict=True))
    for axis, chosen, option in (("z", plane, "--plane"), ("t", time, "--time")):
        if sizes.get(axis, 1) > 1 and chosen is None:
            more = ", or --plane max or mean to project them" if axis == "z" else ""
            raise InputError(
                f"{shown} has {sizes[axis]} {axis} positions; choose one with {option}{more}."
            )
    labels = [c.get("label") for c in image.get("omero", {}).get("channels", [])]
    count = sizes.get("c", 1)
    names = list(channel_names) or [str(label) for label in labels]
    if len(names) != count or not all(labels[: len(names)] or channel_names):
        raise InputError(
            f"{shown} has {count} channels and {len(names)} names; "
            "give one each with --channel-names."
        )
    project = f"&project={plane}" if plane in PROJECTIONS and sizes.get("z", 1) > 1 else ""
    z = "*" if project else 0 if isinstance(plane, str) else plane or 0
    selected: dict[str, int | str] = {"z": z, "t": time or 0}
    if count > 1000:
        raise InputError(f"{shown} claims {count} channels.")
    images = []
    for channel in range(count):
        cell = [channel if axis == "c" else selected.get(axis, 0) for axis in axes[:-2]]
        images.append(f"{array}#index={','.join(map(str, cell))}{project}")
    return names, images


def _shape(path: str) -> list[int]:
    for name in ("zarr.json", ".zarray"):
        file = posixpath.join(path, name)
        if exists(file):
            shape = _read_json(file).get("shape")
            if not isinstance(shape, list) or not all(isinstance(n, int) for n in shape):
                raise InputError(f"{redact_credentials(path)} has no shape: it is no Zarr array.")
            return shape
    raise InputError(
        f"{redact_credentials(path)} is no Zarr array: it has neither zarr.json nor .zarray."
    )


def _matches(source: Source) -> float:
    if not source.is_folder:
        return 0.0
    if is_plate(source.path):
        return CERTAIN
    if any(".zarr/" in path for path in source.files) and find_plates(source.path):
        return 0.5  # images whose names are known come first
    return 0.0


def _read(path: str, options: ReadOptions) -> Index:
    if isinstance(options.plane, str) and options.plane not in PROJECTIONS:
        raise InputError(
            f"--plane is '{options.plane}'; OME-Zarr has numbered planes, from 0, and max or mean "
            "project them."
        )
    return read_ome_zarr(
        path,
        plates=find_plates(path),
        channel_names=options.channel_names,
        metadata_value=options.metadata_value,
        plane=options.plane,
        time=options.time,
    )


READERS = (
    Reader(
        "ome-zarr",
        "OME-Zarr plates (HCS)",
        _read,
        _matches,
        ("channel_names", "plane", "time"),
    ),
)
