import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.losses import fourier_error, mae_loss, normalize_patches
from mae_jax.networks.mae.model import MAEOutput

PATCH = 8
CHANNELS = ("a", "b", "c")


def config(channel_agnostic=True, **changes):
    encoder = ParallelViTConfig(
        patch=PATCH, channels=CHANNELS, channel_agnostic=channel_agnostic, crop=64
    )
    return dataclasses.replace(MAEConfig(encoder=encoder), **changes)


def output(pixels, weight, dtype=np.float32):
    rng = np.random.default_rng(0)
    shape = (*weight.shape, pixels)
    return MAEOutput(
        prediction=jnp.asarray(rng.normal(size=shape), dtype),
        target=jnp.asarray(rng.normal(size=shape), dtype),
        loss_mask=jnp.asarray(weight, jnp.float32),
        mask=jnp.asarray(weight, jnp.float32),
        patch_ids=jnp.broadcast_to(jnp.arange(weight.shape[1]), weight.shape),
    )


@pytest.mark.parametrize("channel_agnostic", [True, False])
def test_equations_in_numpy_loops(channel_agnostic):
    weight = (np.random.default_rng(1).random((2, 6)) < 0.5).astype(np.float32)
    channels = 1 if channel_agnostic else 3
    out = output(PATCH**2 * channels, weight)
    mae, fourier, masked = 0.0, 0.0, 0
    for b, t in zip(*np.nonzero(weight), strict=True):
        y = np.asarray(out.target[b, t], np.float64)
        guess = np.asarray(out.prediction[b, t], np.float64)
        mae += ((y - guess) ** 2).mean()
        spectra = []
        for c in range(channels):
            f = [np.abs(np.fft.fft2(v.reshape(PATCH, PATCH, channels)[..., c])) for v in (y, guess)]
            spectra.append(np.abs(f[0] - f[1]).mean())
        fourier += np.mean(spectra)
        masked += 1
    loss, parts = mae_loss(out, config(channel_agnostic))
    np.testing.assert_allclose(parts["mae"], mae / masked, rtol=1e-5)
    np.testing.assert_allclose(parts["fourier"], fourier / masked, rtol=1e-5)
    np.testing.assert_allclose(loss, 0.99 * mae / masked + 0.01 * fourier / masked, rtol=1e-5)


def released_fourier_loss(prediction: np.ndarray, target: np.ndarray) -> float:
    """The released code's loss: spectra of squares of as many values as there are tokens."""
    batch, tokens, pixels = prediction.shape
    side = round(tokens**0.5)
    spectra = [
        np.abs(np.fft.fft2(x.reshape(batch, pixels, side, side))) for x in (prediction, target)
    ]
    return np.abs(spectra[0] - spectra[1]).mean()


@pytest.mark.parametrize(("patch", "factor"), [(8, 4.0), (16, 1.0)])
def test_the_released_scale_is_that_of_the_released_loss(patch, factor):
    """Within 3 %, for crops of 256 pixels in one channel."""
    encoder = ParallelViTConfig(patch=patch, channels=("a",), crop=256)
    tokens = (256 // patch) ** 2
    weight = np.ones((2, tokens), np.float32)
    out = output(patch**2, weight)
    losses = {
        scale: float(mae_loss(out, MAEConfig(encoder=encoder, fourier_scale=scale))[1]["fourier"])
        for scale in ("equation_2", "released")
    }
    assert losses["released"] == pytest.approx(factor * losses["equation_2"], rel=1e-6)
    reference = released_fourier_loss(np.asarray(out.prediction), np.asarray(out.target))
    assert losses["released"] == pytest.approx(reference, rel=0.03)


@pytest.mark.parametrize("patch", [4, 5, 8, 14, 16])
def test_the_half_spectrum_equals_the_whole(patch):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 3, patch**2)).astype(np.float32)
    whole = [np.abs(np.fft.fft2(x.reshape(3, patch, patch))) for x in (a, b)]
    expected = np.abs(whole[0] - whole[1]).mean((-2, -1))
    ours = fourier_error(jnp.asarray(a), jnp.asarray(b), patch=patch)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_nothing_masked_is_zero_with_zero_gradients():
    out = output(PATCH**2, np.zeros((2, 6)))

    def loss(prediction):
        return mae_loss(out._replace(prediction=prediction), config())[0]

    value, gradient = jax.value_and_grad(loss)(out.prediction)
    assert value == 0
    assert not np.asarray(gradient).any()


def test_a_blank_prediction_has_finite_gradients():
    out = output(PATCH**2, np.ones((1, 4)))
    zero = jnp.zeros_like(out.prediction)
    gradient = jax.grad(lambda p: mae_loss(out._replace(prediction=p), config())[0])(zero)
    assert np.isfinite(gradient).all()


def test_unmasked_counts_every_patch():
    weight = np.array([[1.0, 0, 0, 1]])
    out = output(PATCH**2, weight)
    every = out._replace(loss_mask=jnp.ones((1, 4)))
    np.testing.assert_array_equal(
        mae_loss(out, config(), masked=False)[0], mae_loss(every, config())[0]
    )
    tail = out._replace(loss_mask=jnp.ones((1, 2)))
    with pytest.raises(InputError, match="predict='all'"):
        mae_loss(tail, config(), masked=False)


def test_norm_pix_standardizes_targets_with_unbiased_variance():
    x = np.random.default_rng(4).normal(3, 2, (2, 3, 64)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(normalize_patches(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)
    out = output(PATCH**2, np.ones((2, 6)))
    normalized = out._replace(target=normalize_patches(out.target))
    on, _ = mae_loss(out, config(norm_pix=True))
    np.testing.assert_allclose(on, mae_loss(normalized, config())[0], rtol=1e-6)


def test_float32_inside_for_bfloat16_predictions():
    out = output(PATCH**2, np.ones((2, 6)))
    rounded = out._replace(
        prediction=out.prediction.astype(jnp.bfloat16), target=out.target.astype(jnp.bfloat16)
    )
    wide = rounded._replace(
        prediction=rounded.prediction.astype(jnp.float32),
        target=rounded.target.astype(jnp.float32),
    )
    loss, parts = mae_loss(rounded, config())
    assert loss.dtype == parts["fourier"].dtype == jnp.float32
    assert loss == mae_loss(wide, config())[0]


def test_alpha_zero_is_the_plain_loss_and_still_reports_fourier():
    out = output(PATCH**2, np.ones((2, 6)))
    loss, parts = mae_loss(out, config(fourier_weight=0.0))
    assert loss == parts["mae"]
    assert parts["fourier"] > 0
