"""Headers of PNG, JPEG, JPEG-2000 and NPY files: sizes are judged before anything is decoded.

A file of a few bytes can claim billions of pixels. Every image is therefore refused, by its header
alone, if it has more than `MAX_PIXELS` pixels per plane, decodes to more than `MAX_DECODED_BYTES`,
or claims more than its compressed bytes can hold. Reading one plane then takes at most the bytes
of its file, twice `MAX_DECODED_BYTES`, and a constant. `MAE_JAX_MAX_PIXELS` raises both limits.
"""

import os
import struct
from dataclasses import dataclass
from io import BytesIO

import numpy as np

from mae_jax.errors import InputError

MAX_PIXELS = 2**28  # 16,384 × 16,384
MAX_DECODED_BYTES = 2**30
_DEFLATE_RATIO = 1032  # the most that deflate can expand
_JPEG_RATIO = 1024  # pixels per byte: at least a bit per block of 8 × 8 pixels, and a margin
_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # per color type; palettes become RGB
_MAX_BLOCKS = 2**21  # of a JPEG-2000 image, since the decoder describes each in memory
_MAX_TILES = 2**14  # of a JPEG-2000 image; each needs memory of its own


@dataclass(frozen=True)
class ImageHeader:
    """The size that a file claims.

    Attributes:
      height, width: in pixels.
      decoded_bytes: bytes that decoding needs.
      samples: values per pixel, such as 3 for red, green and blue.
    """

    height: int
    width: int
    decoded_bytes: int
    samples: int = 1


def check_size(name: str, height: int, width: int, decoded_bytes: int) -> None:
    """Checks that an image named `name` has pixels, and not too many.

    Raises:
      InputError: it has none, or more than the limits.
    """
    factor = _limit_factor()
    if height < 1 or width < 1:
        raise InputError(f"{name} has no pixels ({height} × {width}); leave it out of the index.")
    if height * width > MAX_PIXELS * factor or decoded_bytes > MAX_DECODED_BYTES * factor:
        raise InputError(
            f"{name} claims {height} × {width} pixels, {decoded_bytes / 2**30:.2g} GiB decoded, "
            "more than the limit; leave it out of the index, or set MAE_JAX_MAX_PIXELS if it is "
            "genuine."
        )


def check_dtype(name: str, dtype: np.dtype) -> None:
    """Checks that values of `dtype` are gray values.

    Raises:
      InputError: they are text, objects, structures, complex numbers or dates.
    """
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise InputError(f"{name} holds values of type {dtype}, no gray values; convert it.")


def png_header(raw: bytes) -> ImageHeader:
    """Reads the IHDR chunk of a PNG file.

    Raises:
      ValueError: there is none, or the file is too short for the size that it claims.
    """
    if raw[12:16] != b"IHDR" or len(raw) < 33:
        raise ValueError("there is no IHDR chunk")
    width, height, depth, color = struct.unpack(">IIBB", raw[16:26])
    if color not in _PNG_SAMPLES or depth not in (1, 2, 4, 8, 16):
        raise ValueError("its IHDR chunk makes no sense")
    samples = _PNG_SAMPLES[color]
    packed = height * (width * (1 if color == 3 else samples) * depth // 8)
    if packed > _DEFLATE_RATIO * len(raw):
        raise ValueError(f"{len(raw)} bytes cannot hold {height} × {width} pixels")
    return ImageHeader(height, width, height * width * samples * max(depth, 8) // 8, samples)


def jpeg_header(raw: bytes) -> ImageHeader:
    """Reads the frame header (SOF) of a JPEG file.

    Raises:
      ValueError: there is none, or the file is too short for the size that it claims.
    """
    position = 2
    while position + 9 < len(raw) and raw[position] == 0xFF:
        marker, length = raw[position + 1], int.from_bytes(raw[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, samples = struct.unpack(">HHB", raw[position + 5 : position + 10])
            if samples not in (1, 3, 4):
                raise ValueError("its frame header makes no sense")
            if height * width > _JPEG_RATIO * len(raw):
                raise ValueError(f"{len(raw)} bytes cannot hold {height} × {width} pixels")
            return ImageHeader(height, width, height * width * samples, samples)
        position += 1 if marker == 0xFF else length + 2  # 0xFF may fill up before a marker
    raise ValueError("there is no frame header")


def jpeg2000_header(raw: bytes) -> ImageHeader:
    """Reads the SIZ marker of a JPEG-2000 file or codestream.

    The decoder holds four bytes per sample, and structures for every tile and precinct.

    Raises:
      ValueError: there is none, or it makes no sense.
    """
    start = raw.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(raw) < start + 44:
        raise ValueError("there is no codestream")
    x1, y1, x0, y0, tile_w, tile_h, _, _, samples = struct.unpack(
        ">8IH", raw[start + 8 : start + 42]
    )
    width, height = x1 - x0, y1 - y0
    if width < 0 or height < 0 or not tile_w or not tile_h or not 1 <= samples <= 256:
        raise ValueError("its SIZ marker makes no sense")
    if -(-width // tile_w) * -(-height // tile_h) * samples > _MAX_TILES:
        raise ValueError("it has too many tiles")
    if width * height > 2**16 * len(raw):
        raise ValueError(f"{len(raw)} bytes cannot hold {height} × {width} pixels")
    smallest = _smallest_block(raw, start + 4)
    if width * height * samples > _MAX_BLOCKS * smallest:
        raise ValueError(f"it is cut into blocks of {smallest} pixels, too many for its size")
    return ImageHeader(height, width, 4 * height * width * samples, samples)


def _smallest_block(raw: bytes, position: int) -> int:
    """Pixels of the smallest code block or precinct that the markers of a codestream declare."""
    smallest = 2**12
    while position + 4 <= len(raw):
        marker, length = struct.unpack(">HH", raw[position - 2 : position + 2])
        if marker == 0xFF90 or marker < 0xFF00:  # the first tile
            break
        if marker in (0xFF52, 0xFF53):  # coding style: COD, COC
            style = raw[position + 2 : position + length]
            if marker == 0xFF53:
                style = style[1:]  # after the number of the component
            blocks = style[6:8] if marker == 0xFF52 else style[2:4]
            if len(blocks) == 2:
                smallest = min(smallest, 1 << min(12, blocks[0] + blocks[1] + 4))
            if style[:1] and style[0] & 1:
                for exponents in style[10 if marker == 0xFF52 else 6 :]:
                    smallest = min(smallest, 1 << min(12, (exponents & 15) + (exponents >> 4)))
        position += length + 2
    return smallest


def read_npy(raw: bytes, name: str) -> np.ndarray:
    """The array in the bytes of an .npy file, as a view of them.

    Raises:
      InputError: its values are no gray values.
      ValueError: its header makes no sense, or the bytes do not fit it.
    """
    file = BytesIO(raw)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its version {version} is unknown")
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read(file)
    check_dtype(name, dtype)
    if len(shape) > 8 or any(not 0 <= length < 2**31 for length in shape):
        raise ValueError(f"its shape {shape} makes no sense")
    count = 1
    for length in shape:
        count *= int(length)
    if count * dtype.itemsize != len(raw) - file.tell():
        raise ValueError(f"its {len(raw) - file.tell()} bytes do not fit the shape {shape}")
    flat = np.frombuffer(raw, dtype, count, offset=file.tell())
    array = flat.reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _limit_factor() -> float:
    text = os.environ.get("MAE_JAX_MAX_PIXELS", "")
    if not text:
        return 1.0
    try:
        return max(1.0, float(text) / MAX_PIXELS)
    except ValueError:
        raise InputError(f"MAE_JAX_MAX_PIXELS is '{text}'; give a number of pixels.") from None
