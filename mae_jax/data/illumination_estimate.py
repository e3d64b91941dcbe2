"""Illumination functions estimated from a plate's own images.

The model is I_k(y, x) = F(y, x) · S_k(y, x): every image k shows cells and background S_k, whose
distribution is the same all over the field, through one field F of plate and channel. Then the
median over images of log I_k, each minus its own median, is log F up to a constant and to noise
that falls with the number of images. The smooth part of it is a polynomial of degree 4 in y and x.
What is left, smoothed by a Gaussian, is added as far as two halves of the images agree on it (their
correlation, stepped up to all images by Spearman–Brown).

A camera's constant offset is part of S_k here, which makes the estimate flatter than the light is;
BaSiC (Peng et al. 2017) also models that, but its package does not allow today's numpy.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Real
from scipy import ndimage
from tqdm import tqdm

from mae_jax.data import image_uri
from mae_jax.data.images import read_planes
from mae_jax.data.index import Index
from mae_jax.errors import InputError
from mae_jax.files import replacing, writable

FEWEST_IMAGES = 16  # of a plate and channel
MOST_IMAGES = 200
_SIDE = 128  # pixels of the reduced images
_DEGREE = 4
_SMOOTH = 0.05  # σ of the Gaussian, as a share of the longer side
_PLATE = ["Metadata_Source", "Metadata_Experiment", "Metadata_Plate"]


@dataclass(frozen=True)
class Estimate:
    """The field of one plate and channel.

    Attributes:
      field: the illumination function, with mean 1.
      images: the number of images that it is estimated from.
      error: half the root mean square difference of the fields of two halves of the images: about
        the error that chance leaves.
    """

    field: Float[np.ndarray, "height width"]
    images: int
    error: float


def estimate_field(images: Sequence[Real[np.ndarray, "height width"]]) -> Estimate:
    """The field that some images of one channel share.

    Raises:
      InputError: fewer than `FEWEST_IMAGES` images, images of different sizes, or without light.
    """
    if len(images) < FEWEST_IMAGES:
        raise InputError(
            f"{len(images)} images are too few to tell the illumination from the cells; at least "
            f"{FEWEST_IMAGES} of a plate and channel are needed."
        )
    if len({image.shape for image in images}) > 1:
        raise InputError("the images have different sizes, so they share no illumination.")
    return _estimate([_reduced(image) for image in images], images[0].shape)


def _estimate(reduced: Sequence[np.ndarray], shape: tuple[int, ...]) -> Estimate:
    logs = np.stack([_log(image) for image in reduced])
    halves = [_log_field(logs[start::2]) for start in (0, 1)]
    agreement = float(np.corrcoef(halves[0][1].ravel(), halves[1][1].ravel())[0, 1])
    agreement = max(0.0, agreement) if np.isfinite(agreement) else 0.0
    share = 2 * agreement / (1 + agreement)
    fields = [np.exp(_polynomial(rest.shape, own) + share * rest) for own, rest in halves]
    first, second = (field / field.mean() for field in fields)
    error = float(np.sqrt(np.mean((first - second) ** 2))) / 2
    coefficients, rest = _log_field(logs)
    field = np.exp(_polynomial(shape, coefficients) + _enlarged(share * rest, shape))
    return Estimate((field / field.mean()).astype(np.float32), len(logs), error)


def _reduced(image: np.ndarray) -> Float[np.ndarray, "low_height low_width"]:
    """Means over blocks, with at most about `_SIDE` blocks per side; the rest is cut off evenly."""
    step = max(1, max(image.shape) // _SIDE)
    height, width = (length // step * step for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    cut = image[top : top + height, left : left + width]
    return cut.reshape(height // step, step, width // step, step).mean(
        axis=(1, 3), dtype=np.float64
    )


def _log(image: np.ndarray) -> np.ndarray:
    middle = float(np.median(image))
    if not middle > 0:
        middle = float(image.mean())
    if not middle > 0:
        raise InputError("an image without light has no illumination; leave it out.")
    return np.log(np.maximum(image, 1e-3 * middle))


def _log_field(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of the polynomial, and what is left of the log field, smoothed."""
    middle = np.median(logs - np.median(logs, axis=(1, 2), keepdims=True), axis=0)
    basis = _basis(middle.shape)
    coefficients = np.linalg.lstsq(basis.reshape(len(basis), -1).T, middle.ravel(), rcond=None)[0]
    rest = middle - np.tensordot(coefficients, basis, 1)
    sigma = _SMOOTH * max(middle.shape)
    return coefficients, ndimage.gaussian_filter(rest, sigma, mode="nearest")


def _basis(shape: tuple[int, ...]) -> Float[np.ndarray, "terms height width"]:
    """Products of Legendre polynomials up to the total degree, over the field from −1 to 1."""
    y, x = (np.linspace(-1 + 1 / length, 1 - 1 / length, length) for length in shape)
    powers = [(i, j) for i in range(_DEGREE + 1) for j in range(_DEGREE + 1 - i)]
    legendre = np.polynomial.legendre.Legendre.basis
    return np.stack([np.outer(legendre(i)(y), legendre(j)(x)) for i, j in powers])


def _polynomial(shape: tuple[int, ...], coefficients: np.ndarray) -> np.ndarray:
    return np.tensordot(coefficients, _basis(shape), 1)


def _enlarged(small: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array at another size, linearly; values lie in the middle of their pixels."""
    at = [
        np.clip((np.arange(length) + 0.5) * low / length - 0.5, 0, low - 1)
        for length, low in zip(shape, small.shape, strict=True)
    ]
    grid = np.meshgrid(*at, indexing="ij")
    return ndimage.map_coordinates(small, grid, order=1, mode="nearest")


def estimate_illumination(
    index: Index, folder: str | os.PathLike[str], *, progress: bool = False
) -> tuple[Index, pd.DataFrame]:
    """Estimates the illumination functions of all plates and channels, and writes them.

    Each is a file `<plate>_Illum<Channel>.npy` in `folder`, from at most 200 sites spread evenly
    over the plate; sites that cannot be read are left out.

    Args:
      index: the screen, its images not divided by other functions.
      folder: where to write.
      progress: show a progress bar.

    Returns: the index with the functions in its column `Illumination` (`with_illumination` then
      divides by them), and a table: plate, channel, images, lowest and highest value, error.

    Raises:
      InputError: a plate has too few images or images of different sizes, or they are already
        divided.
    """
    if any(image_uri.parse(uri).get("illumination") for _, uris in index.sites for uri in uris):
        raise InputError(
            "the images are divided by illumination functions already; index them without "
            "--illumination to estimate others."
        )
    folder = Path(folder)
    groups = index.table.groupby(_PLATE, sort=False).indices
    names = _plate_names(index)
    chosen: list[list[str]] = [[""] * len(channels) for channels, _ in index.sites]
    rows = []
    work = [(key, np.asarray(found), channel) for key, found in groups.items()
            for channel in index.channels]  # fmt: skip
    for key, found, channel in tqdm(work, "illumination", disable=not progress):
        own = np.array([row for row in found if channel in index.sites[row][0]], int)
        if not len(own):
            continue
        name = names[key if isinstance(key, tuple) else (key,)]
        spread = own[np.unique(np.linspace(0, len(own) - 1, MOST_IMAGES).astype(int))]
        estimate = _of_sites(index, spread, channel, f"plate {key[-1]}, channel {channel}")
        path = folder / f"{name}_Illum{_safe(channel)}.npy"
        with writable(path), replacing(path) as tmp_path:
            np.save(tmp_path, estimate.field)
        for row in own:
            chosen[row][index.sites[row][0].index(channel)] = image_uri.relative(
                index.root, os.path.abspath(path)
            )
        rows.append(
            {
                "plate": key[-1], "channel": channel, "images": estimate.images,
                "lowest": float(estimate.field.min()), "highest": float(estimate.field.max()),
                "error": estimate.error,
            }
        )  # fmt: skip
    table = index.table.assign(Illumination=pd.Series(chosen, index=index.table.index))
    return replace(index, table=table), pd.DataFrame(rows)


def _of_sites(index: Index, rows: np.ndarray, channel: str, where: str) -> Estimate:
    reduced: list[np.ndarray] = []
    shapes: set[tuple[int, ...]] = set()
    for row in rows:
        try:
            plane = read_planes(index.image_uris(int(row), [channel]))[0]
            log_able = _reduced(plane)
            _log(log_able)
        except InputError:
            continue
        shapes.add(plane.shape)
        reduced.append(log_able)
    if len(reduced) < FEWEST_IMAGES:
        raise InputError(
            f"{where}: {len(reduced)} readable images are too few to tell the illumination from "
            f"the cells; at least {FEWEST_IMAGES} are needed."
        )
    if len(shapes) > 1:
        raise InputError(f"{where}: the images have different sizes.")
    return _estimate(reduced, shapes.pop())


def _plate_names(index: Index) -> dict[tuple[str, ...], str]:
    """A file name for each plate: its own, with its experiment and source where needed."""
    plates = index.table[_PLATE].drop_duplicates()
    keys = list(plates.itertuples(index=False, name=None))
    for count in (1, 2, 3):
        names = [_safe("__".join(part for part in key[-count:] if part)) for key in keys]
        if len(set(names)) == len(names):
            break
    return dict(zip(keys, names, strict=True))


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name) or "plate"
