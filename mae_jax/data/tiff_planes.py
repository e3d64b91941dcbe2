"""Planes of TIFF files: single pages, and channels, z-planes and time points of stacks."""

import logging
import os
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from mae_jax.data.image_headers import check_dtype, check_size
from mae_jax.data.image_uri import ImageURI, is_url
from mae_jax.data.projection import project
from mae_jax.data.storage import read_bytes, reason
from mae_jax.errors import InputError, MachineError, redact_credentials

if TYPE_CHECKING:
    import tifffile

_AXIS_KEYS = {"C": "channel", "Z": "z", "T": "t"}

# tifffile logs warnings before it fails; the error raised here says the same once, with the file.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def read_tiff_planes(raw: bytes, uris: Sequence[ImageURI]) -> list[np.ndarray]:
    """The planes of a TIFF file that some URIs select, each (height, width), or with colors last.

    Args:
      raw: the bytes of the file.
      uris: with `page`, or with `channel`, `z` and `t` for a stack (OME, ImageJ); with neither for
        a file of one page. With `project`, over the z axis; over all pages where the file does not
        say what they show.

    Raises:
      InputError: a URI selects no single page, or its page is too large or holds no gray values.
      Exception: of any type, where the file is damaged.
    """
    import tifffile

    planes = []
    with tifffile.TiffFile(BytesIO(raw)) as file:
        count = len(file.pages)
        if not count:
            raise ValueError("it has no image")
        for uri in uris:
            number = uri.get_int("page")
            if uri.get("project") is not None:
                planes.append(_project(file, uri))
                continue
            if number is None:
                number = _page_number(file, uri)
            elif uri.get("z") or uri.get("t"):
                raise InputError(f"{uri} names a page and also z or t; keep one of them.")
            if number >= count:
                raise InputError(f"{uri} names a page beyond the {count} of the file.")
            planes.append(_read_page(file.pages[number], uri))
    return planes


def read_tiff_regions(uris: Sequence[ImageURI]) -> list[np.ndarray]:
    """The regions of one large TIFF file, each (height, width), or with colors last.

    Only the tiles that a region touches are read and decoded, each region once for all its colors.

    Raises:
      InputError: the file is missing or damaged, or a region lies outside of it.
    """
    import tifffile
    import zarr

    path = uris[0].path
    read: dict[tuple[str | None, str | None], np.ndarray] = {}
    try:
        source = BytesIO(read_bytes(path)) if is_url(path) else path
        if source is path and not os.path.isfile(path):
            raise InputError(f"{path} does not exist.")
        with tifffile.TiffFile(source) as file:
            for uri in uris:
                key = (uri.get("region"), uri.get("page"))
                if key in read:
                    continue
                top, left, height, width = map(int, (uri.get("region") or "").split(","))
                page = file.pages[uri.get_int("page") or 0]
                keyframe: Any = page.keyframe
                check_dtype(str(uri), np.dtype(page.dtype or object))
                samples = int(np.prod(page.shape[2:], dtype=np.int64))
                itemsize = np.dtype(page.dtype or object).itemsize
                check_size(str(uri), height, width, height * width * samples * itemsize)
                tile = [int(length) for length in page.chunks]
                check_size(str(uri), tile[0], tile[1], int(np.prod(tile)) * itemsize)
                if top + height > keyframe.imagelength or left + width > keyframe.imagewidth:
                    raise InputError(
                        f"{uri} is outside of the image of {keyframe.imagelength} × "
                        f"{keyframe.imagewidth} pixels."
                    )
                array: Any = zarr.open(page.aszarr(), mode="r")
                read[key] = np.asarray(array[top : top + height, left : left + width])
    except (InputError, MachineError):
        raise
    except Exception as error:  # tifffile raises exceptions of many types on damaged files
        raise InputError(
            f"{redact_credentials(path)} is broken or truncated ({reason(error)}); copy it again."
        ) from None
    return [read[uri.get("region"), uri.get("page")] for uri in uris]


def _project(file: "tifffile.TiffFile", uri: ImageURI) -> np.ndarray:
    """The projection over z that a URI asks for."""
    if uri.get("page") or uri.get("z"):
        raise InputError(f"{uri} names a plane and also a projection; keep one of them.")
    series = file.series[0]
    sizes = dict(zip(series.axes, series.shape, strict=True))
    unknown = [axis for axis in series.axes if axis not in "YXSCZT" and sizes[axis] > 1]
    if "Z" in sizes or not unknown:
        numbers = [
            _page_number(
                file, ImageURI(uri.path, (*uri.without("project").fragment, ("z", str(z))))
            )
            for z in range(sizes.get("Z", 1))
        ]
    else:
        numbers = list(range(len(file.pages)))
    if numbers[-1] >= len(file.pages):
        raise ValueError(f"it lacks some of its {len(numbers)} planes")
    pages = (_read_page(file.pages[number], uri) for number in numbers)
    return project(pages, uri.get("project") or "", str(uri))


def _read_page(page: "tifffile.TiffPage | tifffile.TiffFrame", uri: ImageURI) -> np.ndarray:
    """Decodes a page after a check of the sizes that it claims."""
    if page.dtype is None:
        raise InputError(f"{uri} holds values of no known type; convert it.")
    check_dtype(str(uri), np.dtype(page.dtype))
    keyframe: Any = page.keyframe
    height, width = int(keyframe.imagelength), int(keyframe.imagewidth)
    check_size(str(uri), height, width, int(page.nbytes))
    for count in page.chunks:
        if count > 2 * max(page.shape) + 4096:
            raise ValueError(f"its tiles {page.chunks} are larger than the image {page.shape}")
    if not all(page.databytecounts):
        raise ValueError("it lacks some of its strips or tiles")
    return np.asarray(page.asarray(maxworkers=1))


def _page_number(file: "tifffile.TiffFile", uri: ImageURI) -> int:
    """The page that `channel`, `z` and `t` select in a stack; what is not named is 0."""
    wanted = {axis: uri.get_int(key) for axis, key in _AXIS_KEYS.items()}
    if all(number is None for number in wanted.values()):
        if len(file.pages) > 1:
            raise InputError(
                f"{uri} holds {len(file.pages)} planes; say which with #page=0 or #channel=0."
            )
        return 0
    series = file.series[0]
    number = 0
    for axis, length in zip(series.axes, series.shape, strict=True):
        if axis in "YXS":
            continue
        selected = wanted.pop(axis, None) or 0
        if selected >= length:
            raise InputError(f"{uri} names {axis} = {selected}, but the file has {length} of it.")
        if axis not in _AXIS_KEYS and length > 1:
            raise InputError(
                f"{uri}: the file does not say what its {length} planes show; "
                "say which one with #page=0."
            )
        number = number * length + selected
    if "S" in series.axes:  # colors, selected by `channel`
        wanted.pop("C", None)
    for axis, left_over in wanted.items():
        if left_over:
            raise InputError(
                f"{uri} names {_AXIS_KEYS[axis]} = {left_over}, but the file has 1 of it."
            )
    return number
