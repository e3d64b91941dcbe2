import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.viz.colors import channel_colors, contrast_limits, false_color, rescale_intensity
from mae_jax.viz.panels import channel_grid, reconstruction_grid

CHANNELS = ("DNA", "ER", "Brightfield")


def crops(count: int = 2, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    original = rng.normal(size=(count, 3, size, size)).astype(np.float32)
    masked = original.copy()
    masked[:, :, : size // 2] = 0
    reconstruction = np.where(masked == 0, 0.5 * original, original)
    return masked, reconstruction, original


def colors_in(sheet: np.ndarray) -> set[tuple[int, ...]]:
    return set(map(tuple, sheet.reshape(-1, 3)))


def test_sheet_holds_every_tile() -> None:
    sheet = reconstruction_grid(*crops(), CHANNELS)
    assert sheet.dtype == np.uint8
    # two crops side by side, 3 columns each, 4 rows (false color and three channels), enlarged
    # from 64 to 128 pixels
    assert sheet.shape[0] > 4 * 128
    assert sheet.shape[1] > 6 * 128
    assert sheet.shape[0] < 5 * 128
    assert sheet.shape[1] < 8 * 128


def test_one_crop_and_many_rows_of_crops() -> None:
    one = reconstruction_grid(*(images[0] for images in crops()), CHANNELS)
    five = reconstruction_grid(*crops(5), CHANNELS, columns=2)
    assert five.shape[0] > 2.9 * one.shape[0]
    assert five.shape[1] > 1.7 * one.shape[1]


def test_hidden_pixels_are_grey_and_only_in_the_masked_column() -> None:
    masked, reconstruction, original = crops(1)
    hidden = tuple(round(255 * v) for v in (0.28, 0.28, 0.35))
    sheet = reconstruction_grid(masked, reconstruction, original, CHANNELS)
    gray = (sheet == hidden).all(axis=-1)
    assert gray.sum() == 4 * 64 * 128  # half of each of four tiles of 128 pixels
    columns = np.flatnonzero(gray.any(axis=0))
    assert np.ptp(columns) == 127
    nothing = reconstruction_grid(original, original, original, CHANNELS)
    assert not (nothing == hidden).all(axis=-1).any()


def test_nan_counts_as_hidden() -> None:
    masked, reconstruction, original = crops(1)
    by_zero = reconstruction_grid(masked, reconstruction, original, CHANNELS)
    masked[:, :, :32] = np.nan
    np.testing.assert_array_equal(
        reconstruction_grid(masked, reconstruction, original, CHANNELS), by_zero
    )


def test_contrast_comes_from_the_original_alone() -> None:
    masked, reconstruction, original = crops(1)
    bright = reconstruction_grid(masked, reconstruction * 100, original, CHANNELS)
    normal = reconstruction_grid(masked, reconstruction, original, CHANNELS)
    third = normal.shape[1] // 3
    np.testing.assert_array_equal(bright[:, -third + 20 :], normal[:, -third + 20 :])
    assert (bright != normal).any()


def test_limits_do_not_depend_on_the_unit() -> None:
    original = crops(1)[2][0]
    a = rescale_intensity(original, contrast_limits(original))
    scaled = original * 300 + 20
    b = rescale_intensity(scaled, contrast_limits(scaled))
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert a.min() == 0
    assert a.max() == 1


def test_a_constant_channel_is_black() -> None:
    image = np.full((1, 8, 8), 7.0, np.float32)
    assert (rescale_intensity(image, contrast_limits(image)) == 0).all()


def test_colors_differ_and_transmitted_light_has_none() -> None:
    colors = channel_colors(("DNA", "ER", "RNA", "AGP", "Mito", "Brightfield", "X", "Y"))
    assert len(set(map(tuple, colors))) == 8
    assert (colors[5] == 0).all()
    assert (channel_colors(("Brightfield",)) > 0).any()


def test_false_colors_add_up() -> None:
    image = np.zeros((2, 1, 3), np.float32)
    image[0, 0, 0] = image[1, 0, 1] = 1
    image[:, 0, 2] = 1
    rgb = false_color(image, np.zeros(image.shape, bool), ("DNA", "ER")).astype(int)
    np.testing.assert_allclose(rgb[0, 2], np.minimum(rgb[0, 0] + rgb[0, 1], 255), atol=1)


def test_missing_channels_are_drawn_as_hidden() -> None:
    image = crops(1)[2][0]
    missing = image.copy()
    missing[1] = np.nan
    sheet = channel_grid([missing, image], ("given", "predicted"), CHANNELS, title="well A01")
    hidden = tuple(round(255 * v) for v in (0.28, 0.28, 0.35))
    assert (sheet == hidden).all(axis=-1).sum() == 128 * 128


def test_images_that_do_not_fit_are_refused() -> None:
    masked, reconstruction, original = crops(1)
    with pytest.raises(InputError, match="the same shape"):
        reconstruction_grid(masked, reconstruction[:, :2], original, CHANNELS)
    with pytest.raises(InputError, match="named"):
        reconstruction_grid(masked, reconstruction, original, ("DNA", "ER"))
