"""One channel at a time, and the ways of other works to prepare pixels."""

import dataclasses

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.bag_of_channels import BagOfChannels
from mae_jax.networks.registry import init_params, make_encoder
from mae_jax.networks.vit.config import vit_config
from mae_jax.networks.vit.encoder import ViTEncoder
from mae_jax.weights.preprocessing import Preprocessing

ONE = vit_config("morphem", width=16, heads=2, depth=1, patch=4, grid=4)
RGB = dataclasses.replace(ONE, channels=("red", "green", "blue"))
PIXELS = np.random.default_rng(0).integers(0, 4000, (2, 5, 16, 16)).astype(np.uint16)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def bag(config, **fields):
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    preprocessing = Preprocessing((), True, 16, bag_of_channels=True, **fields)
    encoder = make_encoder(config, params, preprocessing)
    assert isinstance(encoder, BagOfChannels)
    return encoder


def test_each_channel_is_embedded_alone_and_concatenated():
    encoder = bag(ONE, scale=1.0, eps=1e-7)
    alone = ViTEncoder(ONE, encoder.params, Preprocessing(("any",), False, 16, 1.0, 1e-7))
    by_channel = [np.asarray(alone.embed(PIXELS[:, c : c + 1], pooling="class")) for c in range(5)]
    got = np.asarray(encoder.embed(PIXELS, pooling="channel"))
    assert got.shape == (2, encoder.width(5)) == (2, 80)
    np.testing.assert_allclose(got, np.concatenate(by_channel, axis=1), atol=1e-5)
    assert np.abs(got[:, :16] - got[:, 16:32]).max() > 1e-2  # channels differ
    average = encoder.embed(PIXELS, pooling="class")
    np.testing.assert_allclose(average, np.mean(by_channel, axis=0), atol=1e-5)
    patches = [np.asarray(alone.embed(PIXELS[:, c : c + 1], pooling="mean")) for c in range(5)]
    np.testing.assert_allclose(
        encoder.embed(PIXELS, pooling="mean"), np.mean(patches, axis=0), atol=1e-5
    )
    # In another order, the same vectors in that order.
    turned = np.asarray(encoder.embed(PIXELS[:, ::-1], pooling="channel"))
    np.testing.assert_allclose(turned.reshape(2, 5, 16)[:, ::-1], got.reshape(2, 5, 16), atol=1e-5)
    assert encoder.select_channels(["b", "a"]) == ("b", "a")


def test_a_stain_is_repeated_for_the_inputs_of_an_rgb_network():
    encoder = bag(RGB, standardization="max", scale=1.0, **IMAGENET)
    x = PIXELS / PIXELS.max(axis=(1, 2, 3), keepdims=True)
    mean, std = (np.array(v)[:, None, None] for v in IMAGENET.values())
    fixed = Preprocessing(("r", "g", "b"), False, 16, 1.0, standardization="fixed")
    rgb = ViTEncoder(RGB, encoder.params, fixed)
    wanted = [
        np.asarray(rgb.embed(((x[:, c, None] - mean) / std).astype(np.float32), pooling="class"))
        for c in range(5)
    ]
    np.testing.assert_allclose(
        encoder.embed(PIXELS, pooling="channel"), np.concatenate(wanted, axis=1), atol=1e-5
    )


def test_preparations_by_numpy():
    x = PIXELS / 255

    def prepared(**fields):
        return np.asarray(Preprocessing((), scale=255.0, **fields).standardize(PIXELS))

    every = {"axis": (2, 3), "keepdims": True}
    whole = {"axis": (1, 2, 3), "keepdims": True}
    np.testing.assert_allclose(
        prepared(standardization="zscore", eps=1e-7),
        (x - x.mean(**every)) / (x.std(**every) + 1e-7), atol=1e-4,
    )  # fmt: skip
    low, high = x.min(**whole), x.max(**whole)
    np.testing.assert_allclose(
        prepared(standardization="minmax", eps=1e-6), (x - low) / (high - low + 1e-6), atol=1e-6
    )
    np.testing.assert_allclose(prepared(standardization="max"), x / high, atol=1e-6)
    np.testing.assert_allclose(prepared(standardization="fixed"), x, rtol=1e-6)
    black = Preprocessing((), scale=1.0, standardization="max").standardize(0 * PIXELS)
    assert not np.asarray(black).any()
    with pytest.raises(InputError, match="as many numbers"):
        Preprocessing((), mean=(0.5,))


@pytest.mark.parametrize("side", [8, 40])
def test_crops_are_resized_as_by_torch(side):
    torch = pytest.importorskip("torch")
    x = PIXELS.astype(np.float32) / 4000
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=(side, side), mode="bilinear", antialias=True
    ).numpy()
    ours = Preprocessing((), scale=1.0, standardization="fixed", resize=side).standardize(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_defaults_leave_fingerprints_as_they_were():
    assert Preprocessing(("a",)).fingerprint_text() == (
        '{"any_channels": false, "channels": ["a"], "crop": 256, "scale": null}'
    )
    assert bag(ONE).fingerprint != bag(ONE, resize=32).fingerprint
