"""The channels that one image file holds: colors, pages, and the axes of OME and ImageJ stacks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from mae_jax.data.image_headers import jpeg2000_header, jpeg_header, png_header, read_npy
from mae_jax.data.image_uri import PROJECTIONS, is_url, resolve
from mae_jax.data.storage import read_bytes, reason
from mae_jax.errors import InputError, MachineError, redact_credentials

if TYPE_CHECKING:
    import tifffile

COLORS = ("Red", "Green", "Blue")
MAX_CHANNELS = 1000
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class FilePlane:
    """One channel of a file: its name ("" for the only one), and the fragment that selects it."""

    channel: str
    fragment: str


@dataclass(frozen=True)
class FileAxes:
    """The axes of a file before anything is chosen.

    Attributes:
      names: of its channels, "" for an only one.
      key: the fragment's key of a channel: `channel`, `page`, or "" for a file of one channel.
      depth, times: numbers of z-planes and time points.
      pages: the file holds several pages and does not say what they show.
      height, width: in pixels, 0 where the header does not tell them without more reading.
    """

    names: tuple[str, ...] = ("",)
    key: str = ""
    depth: int = 1
    times: int = 1
    pages: bool = False
    height: int = 0
    width: int = 0


def read_axes(root: str, path: str) -> FileAxes:
    """The axes of an image file, by its header where it is a local TIFF.

    Raises:
      InputError: the file is missing, damaged or no image.
      MachineError: it is out of reach.
    """
    name = redact_credentials(resolve(root, path))
    try:
        axes = _axes(resolve(root, path))
    except (InputError, MachineError):
        raise
    except Exception as error:  # decoders raise exceptions of many types on damaged files
        raise InputError(f"{name} is no image or damaged ({reason(error)}).") from None
    if len(axes.names) > MAX_CHANNELS:
        raise InputError(f"{name} claims {len(axes.names)} channels.")
    return axes


def choose_planes(
    axes: FileAxes, name: str, plane: int | str | None = None, time: int | None = None
) -> list[FilePlane]:
    """The planes to read of an image file, one per channel.

    Colors are the channels Red, Green and Blue (transparency is left out). Pages that the file does
    not describe are channels, or z-planes where `plane` is given.

    Args:
      axes: of the file.
      name: of the file, for messages.
      plane: the z-plane to take, from 0, or 'max' or 'mean'.
      time: the time point to take, from 0.

    Raises:
      InputError: the file holds several z-planes or time points and none is chosen.
    """
    depth, key, channels, z_key = axes.depth, axes.key, axes.names, "z"
    if axes.pages and plane is not None and plane != "projection":
        depth, key, channels, z_key = len(axes.names), "", ("",), "page"
    rest = []
    if depth > 1:
        if plane is None:
            raise InputError(
                f"{name} holds {depth} z-planes; choose one with --plane (from 0), or --plane max "
                "or mean to project them."
            )
        if plane in PROJECTIONS:
            rest.append(f"project={plane}")
        elif isinstance(plane, int) and 0 <= plane < depth:
            rest.append(f"{z_key}={plane}")
        else:
            raise InputError(f"{name} has no z-plane {plane}; it has {depth}, from 0.")
    if axes.times > 1:
        if time is None:
            raise InputError(f"{name} holds {axes.times} time points; choose one with --time.")
        if not 0 <= time < axes.times:
            raise InputError(f"{name} has no time point {time}; it has {axes.times}, from 0.")
        rest.append(f"t={time}")
    return [
        FilePlane(channel, "&".join([*([f"{key}={number}"] if key else []), *rest]))
        for number, channel in enumerate(channels)
    ]


def with_fragment(path: str, fragment: str) -> str:
    """A path with a fragment behind it, or as it is where that is empty."""
    if not fragment:
        return path
    return f"{path}{'&' if '#' in path else '#'}{fragment}"


def _axes(path: str) -> FileAxes:
    if not is_url(path) and os.path.isfile(path):
        with open(path, "rb") as file:
            head = file.read(4)
        if head in _TIFF:  # a stack can be large: only its header is read
            return _tiff_axes(path)
    raw = read_bytes(path)
    if raw[:4] in _TIFF:
        return _tiff_axes(BytesIO(raw))
    if raw.startswith(b"\x89PNG"):
        samples = png_header(raw).samples
    elif raw.startswith(b"\xff\xd8\xff"):
        samples = jpeg_header(raw).samples
    elif raw.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        samples = jpeg2000_header(raw).samples
    elif raw.startswith(b"\x93NUMPY"):
        shape = read_npy(raw, path).shape
        samples = shape[-1] if len(shape) == 3 else 1
    else:
        problem = "is no image" if raw else "is empty"
        raise InputError(f"{redact_credentials(path)} {problem}; copy it again or leave it out.")
    return _colors(samples)


def _colors(samples: int) -> FileAxes:
    if samples == 1:
        return FileAxes()
    if samples == 2:  # gray and transparency
        return FileAxes(("",), "channel")
    if samples in (3, 4):
        return FileAxes(COLORS, "channel")
    return FileAxes(tuple(str(number + 1) for number in range(samples)), "channel")


def _tiff_axes(file: "str | BytesIO") -> FileAxes:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        axes = _axes_of_series(tiff)
        keyframe: Any = tiff.pages[0].keyframe
        return replace(axes, height=int(keyframe.imagelength), width=int(keyframe.imagewidth))


def _axes_of_series(tiff: "tifffile.TiffFile") -> FileAxes:
    """The axes of a file's first series."""
    series = tiff.series[0]
    sizes: Mapping[str, int] = dict(zip(series.axes, series.shape, strict=True))
    depth, times = int(sizes.get("Z", 1)), int(sizes.get("T", 1))
    unknown = [axis for axis in series.axes if axis not in "YXSCZT" and sizes[axis] > 1]
    count, samples = int(sizes.get("C", 1)), int(sizes.get("S", 1))
    if count == 1 and samples > 1:
        colors = _colors(samples)
        return FileAxes(colors.names, colors.key, depth, times)
    if unknown:
        return _pages(len(tiff.pages))
    if count == 1 and len(tiff.pages) > 1 and depth == 1 and times == 1 and not tiff.is_ome:
        if all(page.shape == tiff.pages[0].shape for page in tiff.pages):
            return _pages(len(tiff.pages))
        return FileAxes(("",), "page", depth, times)  # a pyramid or thumbnails behind the image
    if count == 1 and depth == 1 and times == 1 and len(tiff.pages) == 1:
        return FileAxes()
    if count > MAX_CHANNELS:
        raise InputError(f"it claims {count} channels.")
    names = _names(tiff, count) if count > 1 else ("",)
    return FileAxes(names, "channel", depth, times)


def _pages(count: int) -> FileAxes:
    return FileAxes(tuple(str(number + 1) for number in range(count)), "page", pages=True)


def _names(file: "tifffile.TiffFile", count: int) -> tuple[str, ...]:
    """The names of a stack's channels: OME's or ImageJ's, or their numbers."""
    names: list[str] = []
    if file.ome_metadata:
        elements = ElementTree.fromstring(file.ome_metadata).iter()
        pixels = next(e for e in elements if _tag(e) == "Pixels")
        names = [e.get("Name") or "" for e in pixels if _tag(e) == "Channel"]
    elif file.imagej_metadata:
        labels = file.imagej_metadata.get("Labels") or []
        names = [str(label) for label in labels]
    if len(names) != count or not all(names) or len(set(names)) != count:
        return tuple(str(number + 1) for number in range(count))
    return tuple(names)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
