"""Measures of single images for quality control: focus, sharpness, structure and saturation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real
from scipy import ndimage

TILE = 256  # side in pixels of the tiles whose power spectra are averaged
BLOCK = 8  # side in pixels of the blocks whose means show structure above the noise
_BACKGROUND = 4.0  # σ in blocks of what counts as uneven illumination, not structure
# Cameras of fewer bits than their files clip below the type's maximum.
_CLIPS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))

_ABOVE_FLOOR = 4.0  # times the power of the noise: rings that show the image
_FEWEST_CLIPPED = 16  # pixels at such a maximum; one alone may be chance


@dataclass(frozen=True)
class ImageQuality:
    """Measures of one image.

    Attributes:
      mean: of the gray values.
      focus: slope of the logarithm of the power spectrum against that of the frequency: about 0
        for noise, −2 and less for images, the steeper the more blurred (Bray et al. 2012).
      sharpness: variance of the Laplacian, divided by the squared mean.
      structure: σ of the means over blocks of 8 × 8 pixels without their slow trend, divided by
        the σ that the pixel noise alone would give them: about 1 for an empty field.
      saturated: share of pixels at the camera's maximum.
    """

    mean: float
    focus: float
    sharpness: float
    structure: float
    saturated: float


def measure_quality(plane: Real[np.ndarray, "height width"]) -> ImageQuality:
    """The measures of an image; NaN where it is too small or constant."""
    values = plane.astype(np.float32)
    mean = float(values.mean(dtype=np.float64))
    laplacian = ndimage.laplace(values)
    sharpness = float(laplacian.var(dtype=np.float64)) / mean**2 if mean > 0 else np.nan
    return ImageQuality(mean, focus_slope(values), sharpness, structure(values), saturation(plane))


def focus_slope(plane: Real[np.ndarray, "height width"]) -> float:
    """The slope β of P(f) ∝ f^β, from the mean power spectrum of tiles with a Hann window.

    Power is averaged over rings of one frequency step; the line is fitted to the rings from 3
    cycles per tile to half the sampling frequency, spaced evenly in log f. Rings that do not rise
    above the floor at the highest frequencies are left out, as long as four do: there the camera's
    noise hides how blurred the image is.
    """
    height, width = plane.shape
    side = min(TILE, height, width)
    if side < 32:
        return float("nan")
    window = np.hanning(side)[:, None] * np.hanning(side)[None, :]
    tops, lefts = ({0, (length - side) // 2, length - side} for length in (height, width))
    power = np.zeros((side, side // 2 + 1))
    for top in sorted(tops):
        for left in sorted(lefts):
            tile = plane[top : top + side, left : left + side].astype(np.float64)
            power += np.abs(np.fft.rfft2((tile - tile.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * side
    ring = np.rint(radius).astype(int)
    rings = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    first, last = 3, side // 2
    at = np.unique(np.rint(np.geomspace(first, last, 24)).astype(int))
    mean_power = rings[at]
    if not (mean_power > 0).all():
        return float("nan")
    floor = float(np.median(rings[int(0.85 * last) : last + 1]))
    above = mean_power > _ABOVE_FLOOR * floor
    if above.sum() >= 4:
        at, mean_power = at[above], mean_power[above]
    return float(np.polyfit(np.log(at), np.log(mean_power), 1)[0])


def structure(plane: Real[np.ndarray, "height width"]) -> float:
    """How much more the means over blocks vary than noise that is independent per pixel lets them.

    The noise is estimated from differences of neighboring pixels, whose median is little affected
    by what the image shows.
    """
    height, width = (length // BLOCK * BLOCK for length in plane.shape)
    if min(height, width) < 4 * BLOCK:
        return float("nan")
    values = plane[:height, :width].astype(np.float32)
    shape = (height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = values.reshape(shape).mean(axis=(1, 3), dtype=np.float64)
    local = blocks - ndimage.gaussian_filter(blocks, _BACKGROUND)
    margin = min(int(2 * _BACKGROUND), min(local.shape) // 6)  # where the trend is less certain
    inner = local[margin : local.shape[0] - margin, margin : local.shape[1] - margin]
    low, high = np.percentile(inner, [0.1, 99.9])
    spread = (high - low) / 6.18  # of a normal distribution between these percentiles
    noise = 1.4826 * float(np.median(np.abs(np.diff(values, axis=1)))) / np.sqrt(2)
    step = 0.29 if plane.dtype.kind in "iu" else 0.0  # of rounding to integers
    noise = max(noise, step)
    return float(spread / (noise / BLOCK)) if noise > 0 else float("nan")


def saturation(plane: Real[np.ndarray, "height width"]) -> float:
    """The share of pixels at the type's maximum, or at that of a camera of fewer bits.

    A maximum of fewer bits counts where the image's own maximum is just that, in some pixels.
    """
    if plane.dtype.kind not in "iu":
        return float(np.mean(plane == np.inf))
    highest = int(plane.max())
    top = int(np.iinfo(plane.dtype).max)
    if highest in _CLIPS and highest < top and int((plane == highest).sum()) >= _FEWEST_CLIPPED:
        top = highest
    return float(np.mean(plane == top))


def robust_z(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """(x − median) / (1.4826 · MAD); zeros where the MAD is 0."""
    median = np.nanmedian(values)
    mad = 1.4826 * np.nanmedian(np.abs(values - median))
    return (values - median) / mad if mad > 0 else np.zeros_like(values)
