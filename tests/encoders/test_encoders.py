import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mae_jax
from mae_jax.encoders.baselines import PER_CHANNEL, IntensityEncoder, RandomEncoder
from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.registry import init_params
from mae_jax.networks.saved_model import save_model
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.preprocessing import Preprocessing

CONFIG = MAEConfig(
    encoder=ParallelViTConfig(
        patch=8, width=16, depth=2, heads=2, crop=16, channels=("a", "b", "c")
    ),
    decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)
PREPROCESSING = Preprocessing(("a", "b", "c"), any_channels=True, crop=16)


def crops(batch=4, channels=3, size=16, seed=0, dtype=np.uint16):
    return np.random.default_rng(seed).integers(0, 250, (batch, channels, size, size)).astype(dtype)


@pytest.fixture(scope="module")
def params():
    return jax.jit(lambda rng: init_params(CONFIG, rng))(jax.random.key(0))


@pytest.fixture(scope="module")
def encoder(params):
    return MAEEncoder(CONFIG, params, PREPROCESSING)


def test_poolings_relate_as_they_should(encoder):
    pixels = crops()
    mean = encoder.embed(pixels)
    by_channel = encoder.embed(pixels, pooling="channel")
    assert mean.shape == (4, encoder.width(3, "mean")) == (4, 16)
    assert by_channel.shape == (4, encoder.width(3, "channel")) == (4, 48)
    np.testing.assert_allclose(by_channel.reshape(4, 3, 16).mean(1), mean, rtol=1e-5, atol=1e-6)
    tokens = encoder.tokens(encoder.params, jnp.asarray(pixels))
    np.testing.assert_allclose(
        encoder.embed(pixels, pooling="class"), tokens[:, 0], rtol=1e-5, atol=1e-5
    )


def test_saved_and_loaded_it_embeds_exactly_the_same(encoder, params, tmp_path):
    save_model(tmp_path / "run" / "model", params, CONFIG, PREPROCESSING)
    loaded = mae_jax.load_encoder(tmp_path / "run")
    assert loaded.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(loaded.embed(crops()), encoder.embed(crops()))


def test_the_fingerprint_follows_weights_and_preprocessing_only(encoder, params):
    other = dataclasses.replace(PREPROCESSING, scale=255.0)
    assert MAEEncoder(CONFIG, params, other).fingerprint != encoder.fingerprint
    moved = jax.tree.map(lambda x: x + 1e-7, params)
    assert MAEEncoder(CONFIG, moved, PREPROCESSING).fingerprint != encoder.fingerprint
    remat = dataclasses.replace(
        CONFIG, encoder=dataclasses.replace(CONFIG.encoder, remat="full", scan=True)
    )
    assert MAEEncoder(remat, params, PREPROCESSING).fingerprint == encoder.fingerprint


def test_computed_in_bfloat16_it_is_another_encoder_with_nearly_the_same_output(
    encoder, params, tmp_path
):
    save_model(tmp_path / "model", params, CONFIG, PREPROCESSING)
    fast = mae_jax.load_encoder(tmp_path / "model", dtype="bfloat16")
    same = mae_jax.load_encoder(tmp_path / "model", dtype="float32")
    assert same.fingerprint == encoder.fingerprint != fast.fingerprint
    exact, rounded = encoder.embed(crops()), fast.embed(crops())
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=2e-2)
    assert (rounded != exact).any()
    with pytest.raises(InputError, match="dtype cannot be 'float16'"):
        mae_jax.load_encoder(tmp_path / "model", dtype="float16")
    with pytest.raises(InputError, match="'intensity' has no compute type"):
        mae_jax.load_encoder("intensity", dtype="bfloat16")


@pytest.mark.parametrize(
    "config",
    [
        vit_config("vit_s16", channels=("a",), grid=1, depth=1, width=16, heads=1),
        UNetConfig(channels=("a",), crop=16, widths=(8, 8), convolutions=(1, 1)),
    ],
    ids=["plain", "unet"],
)
def test_every_network_computes_in_bfloat16(config, tmp_path):
    preprocessing = Preprocessing(("a",), any_channels=False, crop=16)
    save_model(tmp_path, init_params(config, jax.random.key(0)), config, preprocessing)
    exact, fast = (mae_jax.load_encoder(tmp_path, dtype=d) for d in ("float32", "bfloat16"))
    pixels = crops(channels=1)
    np.testing.assert_allclose(fast.embed(pixels), exact.embed(pixels), atol=0.1)
    assert (fast.embed(pixels) != exact.embed(pixels)).any()


def test_channels_are_ordered_by_name(encoder):
    assert encoder.select_channels(["c", "x", "a"]) == ("a", "c", "x")
    fixed = MAEEncoder(
        CONFIG, encoder.mae_params, dataclasses.replace(PREPROCESSING, any_channels=False)
    )
    assert fixed.select_channels(["c", "b", "x", "a"]) == ("a", "b", "c")
    with pytest.raises(InputError, match="none is b"):
        fixed.select_channels(["a", "c"])


def test_wrong_pooling_is_named(encoder):
    with pytest.raises(InputError, match="'median'"):
        encoder.embed(crops(), pooling="median")


def test_reconstructions_and_missing_stains(encoder):
    picture = encoder.reconstruct(crops(), seed=1)
    assert picture.reconstruction.shape == (4, 3, 16, 16)
    assert encoder.predict_channels(crops(channels=2), given=("a", "c")).shape == (4, 1, 16, 16)
    alone = MAEEncoder(CONFIG.encoder, encoder.params, PREPROCESSING)
    np.testing.assert_array_equal(alone.embed(crops()), encoder.embed(crops()))
    with pytest.raises(InputError, match="without its decoder"):
        alone.reconstruct(crops())


@pytest.mark.parametrize("channels", [1, 5, 6])
def test_intensity_statistics_by_numpy(channels):
    encoder = mae_jax.load_encoder("intensity")
    pixels = crops(batch=2, channels=channels)
    got = np.asarray(encoder.embed(pixels))
    assert got.shape == (2, 5 * channels) == (2, encoder.width(channels))
    x = pixels.reshape(2, channels, -1) / 65535
    own = np.stack(
        [x.mean(-1), x.std(-1), *(np.percentile(x, p, axis=-1) for p in (1, 50, 99))], axis=-1
    )
    assert own.shape[-1] == len(PER_CHANNEL)
    expected = own.reshape(2, -1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-8)


def test_intensity_scale_is_recorded():
    assert IntensityEncoder(scale=255.0).fingerprint != IntensityEncoder().fingerprint


def test_random_embeddings_depend_on_every_pixel_and_only_on_them():
    encoder = mae_jax.load_encoder("random")
    pixels = crops(batch=3)
    first = np.asarray(encoder.embed(pixels))
    np.testing.assert_array_equal(first, encoder.embed(pixels))
    np.testing.assert_array_equal(first[1:], encoder.embed(pixels[1:]))
    changed = pixels.copy()
    changed[0, 1, 3, 4] += 1
    second = np.asarray(encoder.embed(changed))
    assert abs(np.corrcoef(first[0], second[0])[0, 1]) < 0.4
    np.testing.assert_array_equal(first[1:], second[1:])
    swapped = pixels.copy()
    swapped[0, 0, 0, [0, 1]] = swapped[0, 0, 0, [1, 0]]
    assert (np.asarray(encoder.embed(swapped))[0] != first[0]).any()
    assert RandomEncoder(seed=1).fingerprint != RandomEncoder().fingerprint


def test_random_embeddings_of_many_crops_are_independent_normals():
    z = np.asarray(RandomEncoder(features=64).embed(crops(batch=256)))
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    off_diagonal = np.corrcoef(z) - np.eye(256)
    assert abs(off_diagonal).max() < 0.75


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'intensity'"):
        mae_jax.load_encoder("intensiti")


@pytest.mark.parametrize("name", ["mae", "intensity", "random"])
def test_forward_is_pure_under_every_transformation(name, encoder):
    encoder = encoder if name == "mae" else mae_jax.load_encoder(name)
    pixels = jnp.asarray(crops(batch=4))
    expected = encoder.embed(pixels)
    jitted = jax.jit(encoder.forward)(encoder.params, pixels)
    np.testing.assert_allclose(jitted, expected, rtol=1e-5, atol=1e-6)
    mapped = jax.vmap(lambda x: encoder.forward(encoder.params, x[None])[0])(pixels)
    np.testing.assert_allclose(mapped, expected, rtol=1e-4, atol=1e-5)
    spread = jax.pmap(encoder.forward, in_axes=(None, 0))(
        encoder.params, pixels.reshape(2, 2, 3, 16, 16)
    )
    np.testing.assert_allclose(spread.reshape(4, -1), expected, rtol=1e-4, atol=1e-5)
    floats = pixels.astype(jnp.float32) / 250

    def total(params, x):
        return (encoder.forward(params, x) ** 2).mean()

    by_params, by_pixels = jax.jit(jax.grad(total, argnums=(0, 1)))(encoder.params, floats)
    assert by_pixels.shape == floats.shape
    if name == "mae":
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(by_params))
        assert np.abs(by_pixels).max() > 0


def test_pixels_that_are_no_batch_of_crops_are_refused(encoder, params):
    with pytest.raises(InputError, match=r"\(3, 16, 16\); give a single crop as pixels\[None\]"):
        encoder.embed(crops()[0])
    with pytest.raises(InputError, match=r"not the shape \(16, 16\)"):
        encoder.embed(crops()[0, 0])
    with pytest.raises(InputError, match=r"crops of 68 pixels .* tile them"):
        encoder.embed(np.zeros((1, 3, 68, 68), np.uint16))
    fixed = dataclasses.replace(PREPROCESSING, any_channels=False)
    with pytest.raises(InputError, match="takes the 3 channels a, b, c, in this order, not 2"):
        MAEEncoder(CONFIG, params, fixed).embed(crops(channels=2))
    baseline = IntensityEncoder()
    assert baseline.embed(np.ones((1, 2, 1080, 1080), np.uint16)).shape[0] == 1


def test_named_channels_are_compared_with_those_of_training(encoder, params):
    fixed = MAEEncoder(CONFIG, params, dataclasses.replace(PREPROCESSING, any_channels=False))
    np.testing.assert_array_equal(
        fixed.embed(crops(), channels=("a", "b", "c")), fixed.embed(crops())
    )
    with pytest.raises(InputError, match="takes the channels a, b, c in that order, not b, a, c"):
        fixed.embed(crops(), channels=("b", "a", "c"))
    with pytest.raises(InputError, match="have 3 channels, but 2 are named"):
        encoder.embed(crops(), channels=("a", "b"))
    with pytest.raises(InputError, match="named twice: a, a, b"):
        encoder.embed(crops(), channels=("a", "a", "b"))
    assert encoder.embed(crops(), channels=("x", "y", "z")).shape[0] == len(crops())


def test_an_encoder_tells_channels_crop_width_and_parameters(encoder):
    text = repr(encoder)
    count = sum(leaf.size for leaf in jax.tree.leaves(encoder.params))
    for part in ("MAEEncoder('CA-MAE 16/8'", "(a, b, c)", "crop=16", f"{count:,} parameters"):
        assert part in text
    assert "any channels" in repr(IntensityEncoder())
