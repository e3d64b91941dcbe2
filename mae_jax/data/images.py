"""Reading images: one plane per channel, with the format detected from magic bytes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from mae_jax.data import array_record, illumination, projection, zarr_reader
from mae_jax.data.image_headers import (
    ImageHeader,
    check_dtype,
    check_size,
    jpeg2000_header,
    jpeg_header,
    png_header,
    read_npy,
)
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.index import Index
from mae_jax.data.readers import parquet_images
from mae_jax.data.storage import read_bytes, reason
from mae_jax.data.tiff_planes import read_tiff_planes, read_tiff_regions
from mae_jax.errors import InputError, MachineError, redact_credentials

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_JPEG = b"\xff\xd8\xff"
_NPY = b"\x93NUMPY"

# The keys of a fragment that each reader understands; the first selects the reader.
_READER_KEYS = {
    "index": {"index", "project"},
    "record": {"record", "channel"},
    "row": {"row", "page", "channel", "z", "t", "project"},
    "region": {"region", "page", "channel"},
    "": {"page", "channel", "z", "t", "project", "planes"},
}


def read_site(
    index: Index, row: int, channels: Sequence[str] | None = None
) -> Shaped[np.ndarray, "channels height width"]:
    """The pixels of one site as they are in its files, channels in the order given.

    Args:
      index: the index of the screen.
      row: the row number of the site in `index.table`.
      channels: names of the channels to read; None for all of the site, as its row lists them.

    Raises:
      InputError: a channel that the site lacks, a file that is missing or broken, or planes of
        different sizes or types; the message names site and file.
      MachineError: a file is out of reach.
    """
    uris = index.image_uris(row, channels)
    names = channels if channels is not None else index.sites[row][0]
    planes = read_planes(uris)
    for name, uri, plane in zip(names, uris, planes, strict=True):
        if plane.shape != planes[0].shape or plane.dtype != planes[0].dtype:
            raise InputError(
                f"{index.describe(row)} has channels of different sizes or types: {names[0]} is "
                f"{_size(planes[0])}, {name} is {_size(plane)} ({uri})."
            )
    return np.stack(planes)


def read_planes(uris: Sequence[ImageURI]) -> list[Shaped[np.ndarray, "height width"]]:
    """The planes at some URIs, each file opened once for all of its planes.

    Raises:
      InputError: a file is missing or broken, or a URI selects no single plane of it.
      MachineError: a file is out of reach, or memory ran out.
    """
    planes: list[np.ndarray] = [np.empty((0, 0))] * len(uris)
    groups: dict[tuple[str, str], list[int]] = {}
    for number, uri in enumerate(uris):
        groups.setdefault((uri.path, _reader_key(uri)), []).append(number)
    for (path, key), numbers in groups.items():
        selected = [uris[number] for number in numbers]
        if any(_projects_several(uri) for uri in selected):
            decoded = [_read_one(uri) for uri in selected]
        elif key == "index":
            decoded = list(zarr_reader.read_array_planes(selected))
        elif key == "record":
            decoded = array_record.read_record_planes(selected)
        elif key == "region":
            decoded = [
                _select(image, uri)
                for image, uri in zip(read_tiff_regions(selected), selected, strict=True)
            ]
        elif key == "row":
            decoded = [
                _decode(parquet_images.read_cell(uri), str(uri), [uri.without("row")])[0]
                for uri in selected
            ]
        else:
            decoded = _decode(read_bytes(path), redact_credentials(path), selected)
        for number, plane in zip(numbers, decoded, strict=True):
            planes[number] = illumination.divide(plane, uris[number])
    return planes


def _projects_several(uri: ImageURI) -> bool:
    """Whether a URI is a projection over several files or planes of a Zarr array.

    That over the pages of one TIFF file is made where the file is open.
    """
    in_array = uri.get("index") is not None
    return uri.get("project") is not None and (in_array or uri.get("planes") is not None)


def _read_one(uri: ImageURI) -> np.ndarray:
    if not _projects_several(uri):
        return read_planes([uri.without("illumination")])[0]
    planes = (read_planes([plane])[0] for plane in projection.planes_of(uri))
    return projection.project(planes, uri.get("project") or "", str(uri))


def _reader_key(uri: ImageURI) -> str:
    key = next(
        (key for key in ("index", "record", "row", "region") if uri.get(key) is not None), ""
    )
    for name, _ in uri.fragment:
        if name != "illumination" and name not in _READER_KEYS[key]:
            raise InputError(f"{uri} has '{name}' besides '{key}', which exclude each other.")
    return key


def _decode(raw: bytes, name: str, uris: Sequence[ImageURI]) -> list[np.ndarray]:
    """The planes that `uris` select in the file whose bytes are `raw`."""
    import imagecodecs

    try:
        if raw.startswith(_TIFF):
            images = read_tiff_planes(raw, uris)
            # A channel of a stack has selected the page; only colors are left to select.
            return [
                _select(image, uri if image.ndim > 2 or uri.get("page") else uri.without("channel"))
                for image, uri in zip(images, uris, strict=True)
            ]
        if raw.startswith(_PNG):
            _check(name, png_header(raw))
            image = imagecodecs.png_decode(raw)
        elif raw.startswith(_JPEG2000):
            _check(name, jpeg2000_header(raw))
            image = imagecodecs.jpeg2k_decode(raw)
        elif raw.startswith(_JPEG):
            _check(name, jpeg_header(raw))
            image = imagecodecs.jpeg8_decode(raw)
        elif raw.startswith(_NPY):
            image = read_npy(raw, name)
        else:
            problem = "is no TIFF, PNG, JPEG, JPEG-2000 or NPY image" if raw else "is empty"
            raise InputError(f"{name} {problem}; copy it again.")
        for uri in uris:
            if uri.get("project"):
                raise InputError(f"{uri} is a projection over z, but the file has 1 plane.")
            for key in ("page", "z", "t"):
                if uri.get_int(key):
                    raise InputError(f"{uri} names {key} = {uri.get(key)}, but the file has 1.")
        return [_select(image, uri) for uri in uris]
    except InputError:
        raise
    except MemoryError:  # sizes were checked: the machine is short of it
        raise MachineError(f"memory ran out while {name} was decoded.") from None
    except Exception as error:  # decoders raise exceptions of any type on damaged files
        raise InputError(
            f"{name} is broken or truncated ({reason(error)}); copy it again."
        ) from None


def _check(name: str, header: ImageHeader) -> None:
    check_size(name, header.height, header.width, header.decoded_bytes)


def _select(image: np.ndarray, uri: ImageURI) -> np.ndarray:
    """The plane of a decoded image, by the URI's `channel` where the image has colors."""
    image = np.asarray(image)
    check_dtype(str(uri), image.dtype)
    channel = uri.get_int("channel")
    if image.ndim > 2:
        image = image.reshape([length for length in image.shape if length != 1] or [1, 1])
    if image.ndim == 3 and channel is not None:
        if channel >= image.shape[-1]:
            raise InputError(f"{uri} names channel {channel} of {image.shape[-1]} (from 0).")
        image = image[..., channel]
    elif channel:
        raise InputError(f"{uri} names channel {channel}, but the file holds a single plane.")
    if image.ndim != 2:
        raise InputError(
            f"{uri} is an image of shape {image.shape}, not a plane; "
            "say which channel with #channel=0."
        )
    height, width = image.shape
    check_size(str(uri), height, width, image.nbytes)
    return image.astype(np.uint8) if image.dtype == bool else image


def _size(plane: np.ndarray) -> str:
    return f"{plane.shape[0]} × {plane.shape[1]} {plane.dtype}"
