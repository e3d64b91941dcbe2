"""Reading images: one plane a channel, decoded by what the bytes are, not by what the name says."""

import logging
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from jaxtyping import Shaped

from mae_jax.data import array_record as records
from mae_jax.data import illumination
from mae_jax.data import zarr_reader as arrays
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.index import Index
from mae_jax.data.readers import parquet_images as tables
from mae_jax.data.storage import read_bytes
from mae_jax.errors import InputError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_NPY = b"\x93NUMPY"

# What tifffile warns of before it fails is said once, with the file's name, by what is raised here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_site(
    index: Index, row: int, channels: Sequence[str] | None = None
) -> Shaped[np.ndarray, "channels height width"]:
    """The pixels of one site as they are in its files, channels in the order asked.

    Args:
      index: the index of the screen.
      row: the row number of the site in `index.table`.
      channels: names of the channels to read; None for all of the site, as its row lists them.

    Raises:
      InputError: a channel that the site lacks, a file that is missing or broken, or planes of
        unlike sizes or types; the message names site and file.
    """
    uris = index.image_uris(row, channels)
    names = channels if channels is not None else index.sites[row][0]
    planes = read_planes(uris)
    for name, plane in zip(names, planes, strict=True):
        if plane.shape != planes[0].shape or plane.dtype != planes[0].dtype:
            raise InputError(
                f"{index.describe(row)} has channels of unlike sizes or types: {names[0]} is "
                f"{_size(planes[0])}, {name} is {_size(plane)} ({uris[list(names).index(name)]})."
            )
    return np.stack(planes)


def read_planes(uris: Sequence[ImageURI]) -> list[Shaped[np.ndarray, "height width"]]:
    """The planes at the given uris, each file opened once however many planes it gives.

    Raises:
      InputError: a file is missing or broken, or a uri names no single plane of it.
    """
    planes: list[np.ndarray | None] = [None] * len(uris)
    for path in dict.fromkeys(uri.path for uri in uris):
        wanted = [number for number, uri in enumerate(uris) if uri.path == path]
        here = [uris[number] for number in wanted]
        if all(map(arrays.in_array, here)):
            found = list(arrays.read_array_planes(here))
        elif all(map(records.in_record, here)):
            found = records.read_record_planes(here)
        elif all(map(tables.in_table, here)):
            found = [_decode(tables.read_cell(p), str(p), [_without_row(p)])[0] for p in here]
        else:
            found = _decode(read_bytes(path), path, here)
        for number, plane in zip(wanted, found, strict=True):
            planes[number] = illumination.divide(plane, uris[number])
    return [plane for plane in planes if plane is not None]


def _without_row(uri: ImageURI) -> ImageURI:
    return ImageURI(uri.path, tuple(part for part in uri.fragment if part[0] != "row"))


def _decode(raw: bytes, path: str, uris: Sequence[ImageURI]) -> list[np.ndarray]:
    """The planes that `uris` name in the file whose bytes are `raw`."""
    import imagecodecs

    try:
        if raw.startswith(_TIFF):
            return _tiff_planes(raw, uris)
        if raw.startswith(_PNG):
            image = imagecodecs.png_decode(raw)
        elif raw.startswith(_JPEG2000):
            image = imagecodecs.jpeg2k_decode(raw)
        elif raw.startswith(_NPY):
            image = np.load(BytesIO(raw), allow_pickle=False)
        else:
            what = "is empty" if not raw else "is no TIFF, PNG, JPEG-2000 or NPY image"
            raise InputError(f"{path} {what}; copy it again.")
        return [_plane(image, uri) for uri in uris]
    except (InputError, MemoryError):
        raise
    except Exception as problem:  # decoders raise whatever they like on broken files
        says = f"{type(problem).__name__}: {problem}"
        raise InputError(f"{path} is broken or truncated ({says}); copy it again.") from None


def _tiff_planes(raw: bytes, uris: Sequence[ImageURI]) -> list[np.ndarray]:
    import tifffile

    found = []
    with tifffile.TiffFile(BytesIO(raw)) as file:
        if not len(file.pages):
            raise ValueError("there is no image in it")
        for uri in uris:
            page = uri.get_int("page")
            if page is None and uri.get("channel") is not None:
                page = _page_of_channel(file, uri)
            if page is None and len(file.pages) > 1:
                raise InputError(
                    f"{uri} holds {len(file.pages)} planes; say which with #page=0 or #channel=0."
                )
            if (page or 0) >= len(file.pages):
                raise InputError(f"{uri} names a page beyond the {len(file.pages)} of the file.")
            found.append(_plane(file.pages[page or 0].asarray(), ImageURI(uri.path)))
    return found


def _page_of_channel(file: object, uri: ImageURI) -> int:
    """The page of a channel in an OME-TIFF or ImageJ stack; z and t count from 0."""
    series = file.series[0]  # type: ignore[attr-defined]
    axes, shape = series.axes, series.shape
    at = {"C": uri.get_int("channel"), "Z": uri.get_int("z"), "T": uri.get_int("t")}
    page = 0
    for axis, length in zip(axes, shape, strict=True):
        if axis in "YX":
            continue
        number = at.get(axis) or 0
        if number >= length:
            raise InputError(f"{uri} names {axis} = {number}, but the file has {length} of it.")
        page = page * length + number
    return page


def _plane(image: np.ndarray, uri: ImageURI) -> np.ndarray:
    channel = uri.get_int("channel")
    image = np.asarray(image)
    if image.ndim == 3 and channel is not None and channel < image.shape[-1]:
        image = image[..., channel]
    image = image.reshape([n for n in image.shape if n != 1]) if image.ndim > 2 else image
    if image.ndim != 2:
        raise InputError(
            f"{uri} is an image of shape {image.shape}, not a plane; "
            "say which channel with #channel=0."
        )
    if image.dtype == bool:
        image = image.astype(np.uint8)
    return image


def _size(plane: np.ndarray) -> str:
    return f"{plane.shape[0]} × {plane.shape[1]} {plane.dtype}"
