"""Projections of z-stacks: the maximum or the mean over z-planes, made while reading."""

from collections.abc import Iterable, Iterator
from urllib.parse import unquote

import numpy as np
from jaxtyping import Shaped

from mae_jax.data import zarr_reader
from mae_jax.data.image_uri import ImageURI
from mae_jax.errors import InputError


def project(
    planes: Iterable[Shaped[np.ndarray, "height width"]], method: str, name: str
) -> Shaped[np.ndarray, "height width"]:
    """The maximum or the mean over some planes, in the planes' own type.

    Planes are taken one by one: two of them are in memory at a time. The mean of integers is
    rounded to the nearest integer.

    Args:
      planes: of one size and type.
      method: 'max' or 'mean'.
      name: of the image, for messages.

    Raises:
      InputError: the planes differ in size or type, or there is none.
    """
    result: np.ndarray | None = None
    dtype, count = np.dtype(np.uint8), 0
    for plane in planes:
        if result is None:
            dtype = plane.dtype
            result = plane.astype(np.float64) if method == "mean" else plane.copy()
        elif plane.shape != result.shape or plane.dtype != dtype:
            raise InputError(f"{name} has z-planes of different sizes or types.")
        elif method == "mean":
            result += plane
        else:
            np.maximum(result, plane, out=result)
        count += 1
    if result is None:
        raise InputError(f"{name} has no z-planes.")
    if method == "mean":
        result /= count
        return (np.rint(result) if dtype.kind in "iu" else result).astype(dtype)
    return result


def planes_of(uri: ImageURI) -> Iterator[ImageURI]:
    """The URIs of the single planes that a projection over files or over a Zarr axis consists of.

    Raises:
      InputError: `index` marks no axis or several with `*`, or does not fit the array.
    """
    single = uri.without("project", "planes", "illumination")
    index = uri.get("index")
    if index is None:
        yield single
        for path in filter(None, (uri.get("planes") or "").split(",")):
            yield ImageURI(unquote(path), single.fragment)
        return
    cell = index.split(",")
    shape = zarr_reader.open_array(uri.path).shape
    if cell.count("*") != 1 or len(cell) != len(shape) - 2:
        raise InputError(
            f"{uri} projects an array of shape {shape}; mark one of its {len(shape) - 2} leading "
            "axes with *."
        )
    axis = cell.index("*")
    for number in range(shape[axis]):
        cell[axis] = str(number)
        fragment = tuple(
            (key, ",".join(cell) if key == "index" else value) for key, value in single.fragment
        )
        yield ImageURI(uri.path, fragment)
