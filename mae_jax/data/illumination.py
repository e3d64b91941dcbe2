"""Illumination functions: the uneven illumination of a microscope's field of view.

CellProfiler's Cell Painting pipelines write one per plate and channel as .npy, with values around
1, and divide images by it. The URI of an image to be divided names its function,
`image.tiff#illumination=illum%2FP1_IllumDNA.npy`, so that every reader divides alike.
"""

from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd

from mae_jax.data import image_uri
from mae_jax.data.image_headers import read_npy
from mae_jax.data.index import Index
from mae_jax.data.storage import read_bytes, reason
from mae_jax.errors import InputError, redact_credentials


def with_illumination(index: Index) -> Index:
    """The index whose images are divided by their illumination functions when they are read.

    Raises:
      InputError: the index names no illumination functions, or none for one of its images.
    """
    if "Illumination" not in index.table.columns:
        raise InputError(
            "the index names no illumination functions; the LoadData CSV needs columns "
            "FileName_Illum<Channel> or URL_Illum<Channel>."
        )
    images = []
    for row, (names, uris) in enumerate(index.sites):
        divided = []
        for name, uri, illumination_path in zip(
            names, uris, index.table["Illumination"].iloc[row], strict=True
        ):
            if not illumination_path:
                raise InputError(
                    f"{index.describe(row)}, channel {name}: no illumination function."
                )
            separator = "&" if image_uri.parse(uri).fragment else "#"
            divided.append(f"{uri}{separator}illumination={quote(illumination_path, safe='')}")
        images.append(divided)
    table = index.table.assign(Images=pd.Series(images, index=index.table.index))
    return replace(index, table=table, value_ranges={})


def divide(plane: np.ndarray, uri: image_uri.ImageURI) -> np.ndarray:
    """The plane divided by the function that its uri names, in the plane's own type.

    Integers are rounded and kept within their type's range.

    Raises:
      InputError: the function is missing, no array, of another size or not positive.
    """
    illumination_path = uri.get("illumination")
    if illumination_path is None:
        return plane
    function = _function(unquote(illumination_path))
    if function.shape != plane.shape:
        raise InputError(
            f"{unquote(illumination_path)} has {function.shape} pixels, the image {uri.path} "
            f"{plane.shape}."
        )
    divided = plane / function
    if plane.dtype.kind in "iu":
        limits = np.iinfo(plane.dtype)
        divided = np.clip(np.rint(divided), limits.min, limits.max)
    return divided.astype(plane.dtype)


@lru_cache(maxsize=64)
def _function(path: str) -> np.ndarray:
    shown = redact_credentials(path)
    try:
        function = read_npy(read_bytes(path), shown)
    except InputError:
        raise
    except Exception as error:  # numpy raises exceptions of many types on damaged files
        raise InputError(f"{shown} is no illumination function (.npy): {reason(error)}.") from None
    if function.ndim != 2 or not np.isfinite(function).all() or (function <= 0).any():
        raise InputError(f"{shown} is no illumination function: it is not positive everywhere.")
    return np.asarray(function, np.float32)
