"""A light detector of nuclei on a DNA stain: thresholds and a watershed, by scikit-image."""

import threading

import numpy as np
from jaxtyping import Float, Int, Real

from mae_jax.data.image_quality import structure
from mae_jax.errors import InputError

EMPTY = 4.0  # structure below which a field shows nothing (`mae_jax.data.image_quality`)
_importing = threading.Lock()  # several threads cannot import scikit-image at once
_SMALLEST = 0.25  # of a usual nucleus' area: smaller objects are debris


def detect_nuclei(
    plane: Real[np.ndarray, "height width"], *, diameter: float | None = None
) -> Int[np.ndarray, "height width"]:
    """Labels of the nuclei in an image of a DNA stain: 0 for the background, then 1, 2, ….

    The image minus its background is smoothed and cut at a threshold (minimum cross-entropy, Li);
    touching nuclei are separated by a watershed of the distance to the background. An empty field
    has no nuclei.

    Args:
      plane: the image.
      diameter: of a usual nucleus in pixels; None to take it from the image's own objects.

    Raises:
      InputError: the diameter is not positive.
      ModuleNotFoundError: scikit-image is not installed (`pip install 'mae_jax[qc]'`).
    """
    from scipy import ndimage

    with _importing:
        from skimage import feature, filters, measure, morphology, segmentation

    if diameter is not None and not diameter > 0:
        raise InputError(f"the diameter of a nucleus must be positive, not {diameter:g} pixels.")
    none = np.zeros(plane.shape, np.int32)
    level = structure(plane)
    if np.isfinite(level) and level < EMPTY:
        return none
    values = plane.astype(np.float32)
    size = diameter or 24.0
    smooth = filters.gaussian(values, size / 16, preserve_range=True)
    smooth = smooth - filters.gaussian(smooth, 3 * size, preserve_range=True)
    smooth -= smooth.min()
    if not smooth.max() > 0:
        return none
    # From Otsu's threshold on, since a lone nucleus hardly counts in the cross-entropy; and a few
    # bright bodies must not set the threshold for all nuclei.
    foreground = smooth[
        smooth > filters.threshold_li(smooth, initial_guess=filters.threshold_otsu(smooth))
    ]
    capped = np.minimum(smooth, np.median(foreground))
    mask = smooth > filters.threshold_li(capped, initial_guess=filters.threshold_otsu(capped))
    mask = morphology.opening(mask, morphology.disk(max(1, round(size / 12))))
    objects = measure.label(mask)
    areas = np.bincount(objects.ravel())[1:]
    if not len(areas):
        return none
    if diameter is None:
        size = 2 * float(np.sqrt(np.median(areas[areas >= max(12, areas.max() / 50)]) / np.pi))
    mask = morphology.remove_small_objects(mask, max_size=int(_SMALLEST * np.pi * size**2 / 4))
    mask = ndimage.binary_fill_holes(mask)
    distance = filters.gaussian(ndimage.distance_transform_edt(mask), size / 12)
    peaks = feature.peak_local_max(
        distance, min_distance=max(1, round(0.4 * size)), labels=measure.label(mask),
        exclude_border=False,
    )  # fmt: skip
    markers = none.copy()
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(segmentation.watershed(-distance, markers, mask=mask), np.int32)


def count_nuclei(plane: Real[np.ndarray, "height width"]) -> int:
    """The number of nuclei, detected in an image reduced to about 512 pixels a side."""
    step = max(1, min(plane.shape) // 512)
    height, width = (length // step * step for length in plane.shape)
    blocks = plane[:height, :width].reshape(height // step, step, width // step, step)
    if step > 1:
        level = structure(plane)
        if np.isfinite(level) and level < EMPTY:
            return 0
    return int(detect_nuclei(blocks.mean(axis=(1, 3), dtype=np.float32)).max(initial=0))


def nucleus_centers(labels: Int[np.ndarray, "height width"]) -> Float[np.ndarray, "nuclei 2"]:
    """Centers of mass (row, column) of labels 1, 2, … in pixels."""
    from scipy import ndimage

    count = int(labels.max(initial=0))
    if not count:
        return np.zeros((0, 2))
    return np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, count + 1)))
