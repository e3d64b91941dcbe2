import jax
import numpy as np
import pytest

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
