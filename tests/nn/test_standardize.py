import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.nn.standardize import self_standardize


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 255), (np.uint16, 65535)])
def test_matches_the_formula_in_float64(dtype, scale):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (2, 3, 16, 24)).astype(dtype)
    x = pixels.astype(np.float64) / scale
    mean, var = x.mean((-2, -1), keepdims=True), x.var((-2, -1), keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(self_standardize(pixels), expected, rtol=2e-5, atol=2e-6)


def test_a_constant_channel_is_zero_and_floats_are_taken_as_they_are():
    assert np.abs(self_standardize(np.full((1, 8, 8), 77, np.uint8))).max() == 0
    x = np.random.default_rng(1).random((1, 8, 8)).astype(np.float32)
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(self_standardize(x), expected, rtol=1e-5, atol=1e-6)


def test_a_recorded_scale_wins_over_the_type():
    pixels = np.random.default_rng(2).integers(0, 256, (1, 8, 8))
    as_uint8 = self_standardize(pixels.astype(np.uint8))
    as_uint16 = self_standardize(pixels.astype(np.uint16), 255.0)
    np.testing.assert_array_equal(as_uint8, as_uint16)


def test_runs_under_jit_and_vmap_on_raw_pixels():
    pixels = np.random.default_rng(3).integers(0, 60000, (4, 2, 8, 8)).astype(np.uint16)
    mapped = jax.jit(jax.vmap(self_standardize))(pixels)
    np.testing.assert_allclose(mapped, self_standardize(pixels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_integers_of_more_than_16_bits_need_a_scale(dtype):
    """Divided by their type's maximum, all images would become the same."""
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 1, 8, 8)).astype(dtype)
    with pytest.raises(InputError, match=f"pixels of type {np.dtype(dtype)} have no default scale"):
        self_standardize(pixels)
    expected = self_standardize(pixels.astype(np.uint16), 4095.0)
    np.testing.assert_allclose(self_standardize(pixels, 4095.0), expected, rtol=1e-5, atol=1e-6)


def test_integers_and_floats_of_one_scale_agree():
    pixels = np.random.default_rng(0).integers(0, 300, (2, 1, 8, 8)).astype(np.uint16)
    as_floats = self_standardize(pixels.astype(np.float32), 65535.0)
    np.testing.assert_allclose(self_standardize(pixels, 65535.0), as_floats, rtol=1e-5)


def test_eps_acts_on_the_scaled_variance():
    pixels = np.random.default_rng(0).integers(0, 200, (1, 16, 16)).astype(np.uint8)
    x = pixels / 255
    expected = (x - x.mean()) / np.sqrt(x.var() + 0.1)
    np.testing.assert_allclose(self_standardize(pixels, 255.0, 0.1), expected, rtol=1e-4, atol=1e-6)
