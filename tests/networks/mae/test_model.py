import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.losses import mae_loss
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.reconstruction import predict_channels, reconstruct
from mae_jax.nn.masking import random_masking
from mae_jax.nn.patches import patchify
from mae_jax.nn.pos_embed import sincos_pos_embed

CHANNELS = ("a", "b", "c")


def tiny(channel_agnostic, **encoder):
    return MAEConfig(
        encoder=ParallelViTConfig(
            patch=8,
            width=32,
            depth=2,
            heads=2,
            crop=32,
            channels=CHANNELS,
            channel_agnostic=channel_agnostic,
            layer_scale=0.5,
            drop_path=0.2,
            **encoder,
        ),
        decoder=DecoderConfig(width=32, depth=2, heads=4, cross_heads=2),
    )


@functools.partial(jax.jit, static_argnames=("model", "channels", "mask_ratio", "predict", "train"))
def run(model, params, x, noise=None, rngs=None, **options):
    return model.apply({"params": params}, x, noise=noise, rngs=rngs, **options)


def images(batch=3, channels=3, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(batch, channels, size, size)).astype(np.float32))


def jittered(params, seed=0):
    """Parameters with nothing left at zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape).astype(np.float32), params)


@pytest.fixture(scope="module", params=[True, False], ids=["channel-agnostic", "joint"])
def built(request):
    config = tiny(request.param)
    model = MAE(config)
    rng = jax.random.key(0)
    params = jax.jit(model.init)({"params": rng, "mask": rng}, images())["params"]
    return config, model, jittered(params)


def noise_for(config, batch=3, seed=1):
    tokens = 16 * (3 if config.encoder.channel_agnostic else 1)
    return np.random.default_rng(seed).random((batch, tokens)).astype(np.float32)


def plain_loss(model, config, params, x, noise):
    """The textbook order: embed all, add positions, drop, encode, unshuffle, decode, predict."""

    def forward(mae):
        agnostic = config.encoder.channel_agnostic
        patches = patchify(x, 8, channel_agnostic=agnostic)
        repeats = 3 if agnostic else 1
        table = sincos_pos_embed(4, 4, 32, channels=repeats, class_token=True)
        kept = int(patches.shape[1] * (1 - config.mask_ratio))
        masking = random_masking(jnp.asarray(noise), kept)
        tokens = mae.encoder.embed_patches(patches, jnp.asarray(table[1:]))
        seen = jnp.take_along_axis(tokens[:, 1:], masking.ids_shuffle[:, :kept, None], axis=1)
        tokens = mae.encoder.encode(jnp.concatenate([tokens[:, :1], seen], axis=1))
        y = mae.encoder_decoder_proj(tokens)
        fill = jnp.broadcast_to(
            mae.decoder.mask_token, (x.shape[0], patches.shape[1] - kept, y.shape[-1])
        )
        whole = jnp.concatenate([y[:, 1:], fill], axis=1)
        whole = jnp.take_along_axis(whole, masking.ids_restore[..., None], axis=1)
        decoder = mae.decoder
        if agnostic:
            whole = whole + table[1:] + jnp.repeat(decoder.channel_tokens, 16, axis=0)
            outs = []
            for m in range(3):
                own = whole[:, 16 * m : 16 * (m + 1)]
                u = decoder.cross_attention(decoder.query_norm(own), decoder.context_norm(whole))
                u = u + decoder.mlp(decoder.out_norm(u))
                for block in decoder.block_params:
                    own_block = jax.tree.map(lambda leaf, m=m: leaf[m], block)
                    u = decoder.block.apply({"params": own_block}, u)
                outs.append(u)
            decoded = jnp.concatenate(outs, axis=1)
        else:
            z = jnp.concatenate([y[:, :1], whole], axis=1) + table
            for block in decoder.block_params:
                z = decoder.block.apply({"params": block}, z)
            decoded = decoder.norm(z)[:, 1:]
        error = jnp.square(mae.decoder_pred(decoded) - patches).mean(-1)
        return (error * masking.mask).sum() / masking.mask.sum()

    return model.apply({"params": params}, method=forward)


def test_loss_and_gradients_equal_the_plain_formulation(built):
    config, model, params = built
    config = dataclasses.replace(config, fourier_weight=0.0)
    x, noise = images(), noise_for(config)

    def ours(params):
        return mae_loss(model.apply({"params": params}, x, noise=noise), config)[0]

    got = jax.jit(jax.value_and_grad(ours))(params)
    plain = jax.value_and_grad(lambda p: plain_loss(model, config, p, x, noise))
    expected = jax.jit(plain)(params)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)


def scatters(function, *args):
    text = jax.jit(function).lower(*args).compile().as_text()
    return len(re.findall(r" scatter\(", text)) + len(re.findall(r"select-and-scatter\(", text))


def test_the_compiled_training_step_holds_no_scatter(built):
    config, model, params = built
    x = images()

    def ours(params, key):
        out = model.apply({"params": params}, x, train=True, rngs={"mask": key, "drop_path": key})
        return mae_loss(out, config)[0]

    noise = noise_for(config)
    assert scatters(jax.grad(ours), params, jax.random.key(0)) == 0
    # The counter does see the scatters of the plain formulation.
    assert scatters(jax.grad(lambda p: plain_loss(model, config, p, x, noise)), params) > 0


def test_shapes_masks_and_targets(built):
    config, model, params = built
    x, noise = images(), noise_for(config)
    out = run(model, params, x, noise)
    agnostic = config.encoder.channel_agnostic
    patches = patchify(x, 8, channel_agnostic=agnostic)
    tokens = patches.shape[1]
    masked = tokens - tokens // 4
    assert out.prediction.shape == (3, tokens if agnostic else masked, patches.shape[2])
    np.testing.assert_array_equal(out.mask.sum(axis=1), masked)
    np.testing.assert_array_equal(out.loss_mask.sum(axis=1), masked)
    expected = np.take_along_axis(np.asarray(patches), np.asarray(out.patch_ids)[..., None], axis=1)
    np.testing.assert_array_equal(out.target, expected)
    np.testing.assert_array_equal(
        np.take_along_axis(out.mask, out.patch_ids, axis=1), out.loss_mask
    )
    every = run(model, params, x, noise, predict="all")
    assert every.prediction.shape == patches.shape
    np.testing.assert_array_equal(every.mask, out.mask)


def test_the_encoder_sees_nothing_of_masked_patches(built):
    config, model, params = built
    x, noise = images(), noise_for(config)
    first = reconstruct(model, params, x, noise=noise)
    changed = jnp.where(first.mask > 0, 7.0, x)
    second = reconstruct(model, params, changed, noise=noise)
    np.testing.assert_array_equal(first.prediction, second.prediction)
    np.testing.assert_array_equal(first.masked, x * (1 - first.mask))
    seen = np.asarray(first.mask) == 0
    np.testing.assert_array_equal(np.asarray(first.reconstruction)[seen], np.asarray(x)[seen])
    assert first.mask.mean() == 0.75


@pytest.mark.parametrize("ratio", [0.0, 0.99, 0.999])
def test_extreme_ratios_give_numbers(built, ratio):
    config, model, params = built
    x, noise = images(), noise_for(config)

    def loss(params):
        out = model.apply({"params": params}, x, noise=noise, mask_ratio=ratio)
        return mae_loss(out, config)[0]

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert (value == 0) == (ratio == 0)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_noise_comes_from_the_rng_and_repeats(built):
    _, model, params = built

    def mask(seed):
        return np.asarray(run(model, params, images(), rngs={"mask": jax.random.key(seed)}).mask)

    np.testing.assert_array_equal(mask(0), mask(0))
    assert (mask(0) != mask(1)).any()
    assert len({tuple(row) for row in mask(0)}) == 3


def test_stochastic_depth_only_in_training(built):
    _, model, params = built
    x = images()

    def predict(train, seed):
        rngs = {"mask": jax.random.key(0), "drop_path": jax.random.key(seed)}
        return np.asarray(run(model, params, x, rngs=rngs, train=train).prediction)

    np.testing.assert_array_equal(predict(False, 0), predict(False, 1))
    assert any((predict(True, 0) != predict(True, seed)).any() for seed in range(1, 8))


def test_a_part_of_the_channels_in_another_order():
    config = tiny(True)
    model = MAE(config)
    rng = jax.random.key(0)
    x = images()
    params = jittered(jax.jit(model.init)({"params": rng, "mask": rng}, x)["params"])
    noise = noise_for(config)
    whole = run(model, params, x, noise)
    # The same three channels in another order, with the noise taken along, predict the same.
    order = [2, 0, 1]
    moved = noise.reshape(3, 3, 16)[:, order].reshape(3, 48)
    names = tuple(CHANNELS[i] for i in order)
    other = run(model, params, x[:, jnp.array(order)], moved, channels=names)
    expected = np.asarray(whole.prediction).reshape(3, 3, 16, 64)[:, order].reshape(3, 48, 64)
    np.testing.assert_allclose(other.prediction, expected, atol=2e-5)
    two = run(model, params, x[:, :2], noise[:, :32], channels=("c", "a"))
    assert two.prediction.shape == (3, 32, 64)


def predicted_plainly(model, params, given):
    """Channel b from whole images of a and c: no mask, no shuffling, one decoder."""

    def forward(mae):
        tokens = mae.encoder_decoder_proj(mae.encoder(given))[:, 1:]
        decoder = mae.decoder
        missing = jnp.broadcast_to(decoder.mask_token, (len(given), 16, 32))
        x = jnp.concatenate([tokens[:, :16], missing, tokens[:, 16:]], axis=1)
        x = x + sincos_pos_embed(4, 4, 32, channels=3)
        x = x + jnp.repeat(decoder.channel_tokens, 16, axis=0)
        own = decoder.query_norm(x[:, 16:32])
        u = decoder.cross_attention(own, decoder.context_norm(x))
        u = u + decoder.mlp(decoder.out_norm(u))
        for block in decoder.block_params:
            own_block = jax.tree.map(lambda leaf: leaf[1], block)
            u = decoder.block.apply({"params": own_block}, u)
        return mae.decoder_pred(u)

    patches = np.asarray(model.apply({"params": params}, method=forward))
    return patches.reshape(3, 4, 4, 8, 8).transpose(0, 1, 3, 2, 4).reshape(3, 1, 32, 32)


def test_missing_stains_are_predicted_from_the_given_ones_alone():
    config = tiny(True)
    model = MAE(config)
    rng = jax.random.key(0)
    x = images()
    params = jittered(jax.jit(model.init)({"params": rng, "mask": rng}, x)["params"])
    predicted = predict_channels(model, params, x[:, :2], given=("a", "c"))
    assert predicted.shape == (3, 1, 32, 32)
    np.testing.assert_allclose(predicted, predicted_plainly(model, params, x[:, :2]), atol=2e-5)
    # The pixels of a channel that is masked as a whole have no influence.
    keep = np.repeat([[True, False, True]], 3, axis=0).repeat(16, axis=1)
    for fill in (jnp.zeros_like(x[:, 2]), x[:, 2]):
        filled = jnp.stack([x[:, 0], fill, x[:, 1]], axis=1)
        result = reconstruct(model, params, filled, keep_mask=keep)
        np.testing.assert_array_equal(result.mask[:, 1], 1)
        np.testing.assert_allclose(predicted, result.prediction[:, 1:2], atol=2e-5)
    with pytest.raises(InputError, match="did you mean"):
        predict_channels(model, params, x[:, :1], given=("a",), missing=("bb",))
    joint = MAE(tiny(False))
    with pytest.raises(InputError, match="channel-agnostic"):
        predict_channels(joint, params, x[:, :1], given=("a",))


def test_wrong_channels_are_named(built):
    config, model, params = built
    noise = noise_for(config)
    with pytest.raises(InputError, match="2 channels"):
        model.apply({"params": params}, images(channels=2), noise=noise)
    known = "'z'" if config.encoder.channel_agnostic else "a, b, z"
    with pytest.raises(InputError, match=known):
        model.apply({"params": params}, images(), noise=noise, channels=("a", "b", "z"))


def test_masks_that_mean_nothing_are_refused(built):
    config, model, params = built
    tokens = noise_for(config).shape[1]

    def loss(**options):
        return mae_loss(model.apply({"params": params}, images(), **options), config)[0]

    with pytest.raises(InputError, match="mask_ratio must be at least 0 and below 1"):
        loss(noise=noise_for(config), mask_ratio=1.5)
    with pytest.raises(InputError, match=f"must be of {tokens} tokens per sample, not 5"):
        loss(keep_mask=np.ones((3, 5), bool))
    half = np.arange(tokens) < tokens // 2
    with pytest.raises(InputError, match="give one of the two"):
        loss(keep_mask=np.repeat(half[None], 3, axis=0), mask_ratio=0.75)
    with pytest.raises(InputError, match="one number per token"):
        loss(noise=noise_for(config)[:, :5])
