import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import ENCODERS, ParallelViTConfig, mae_config, parallel_vit_config
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.nn.blocks import gelu
from mae_jax.nn.pooling import pool

CONFIG = ParallelViTConfig(
    patch=8, width=32, depth=2, heads=2, crop=16, channels=("a", "b"), layer_scale=0.3
)


def images(channels=2, height=16, width=16, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(2, channels, height, width)).astype(np.float32))


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(ParallelViT(CONFIG).init)(jax.random.key(0), images())["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), fresh)


def apply(params, x, block=None, **changes):
    model = ParallelViT(dataclasses.replace(CONFIG, **changes))
    return jax.jit(lambda p, x: model.apply({"params": p}, x, block=block))(params, x)


@pytest.mark.parametrize("channels", [1, 3, 16])
def test_any_number_of_channels(params, channels):
    tokens = apply(params, images(channels))
    assert tokens.shape == (2, 1 + 4 * channels, 32)
    assert pool(tokens, "channel", channels).shape == (2, 32 * channels)


def test_the_order_of_channels_moves_tokens_and_nothing_else(params):
    x = images(4)
    order = np.array([2, 0, 3, 1])
    tokens, moved = apply(params, x), apply(params, x[:, order])
    np.testing.assert_allclose(moved[:, 0], tokens[:, 0], atol=2e-5)
    by_channel = np.asarray(tokens[:, 1:]).reshape(2, 4, 4, 32)[:, order].reshape(2, 16, 32)
    np.testing.assert_allclose(moved[:, 1:], by_channel, atol=2e-5)
    np.testing.assert_allclose(pool(moved, "mean"), pool(tokens, "mean"), atol=2e-5)


def test_any_crop_that_the_patch_divides(params):
    assert apply(params, images(1, 24, 40)).shape == (2, 1 + 3 * 5, 32)
    with pytest.raises(InputError, match="multiples of 8"):
        apply(params, images(1, 20, 16))


def test_a_joint_encoder_wants_its_channels():
    joint = dataclasses.replace(CONFIG, channel_agnostic=False)
    fresh = jax.jit(ParallelViT(joint).init)(jax.random.key(0), images())["params"]
    assert fresh["patch_embed"]["kernel"].shape == (128, 32)
    with pytest.raises(InputError, match=r"2 channels \(a, b\), not 3"):
        ParallelViT(joint).apply({"params": fresh}, images(3))


def test_features_of_every_block(params):
    last = apply(params, images())
    np.testing.assert_allclose(apply(params, images(), block=1), last, atol=1e-6)
    np.testing.assert_allclose(apply(params, images(), block=-1), last, atol=1e-6)
    first = apply(params, images(), block=0)
    alone = {k: v for k, v in params.items() if k != "block_01"}
    np.testing.assert_allclose(first, apply(alone, images(), depth=1), atol=1e-6)
    with pytest.raises(InputError, match="blocks 0 to 1"):
        apply(params, images(), block=2)


def test_attention_maps_are_weights(params):
    maps = ParallelViT(CONFIG).apply(
        {"params": params}, images(), block=1, method=ParallelViT.attention_maps
    )
    assert maps.shape == (2, 2, 9, 9)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"scan": True}, {"remat": "full"}, {"remat": "dots", "scan": True}, {"attention": "chunked"}],
    ids=str,
)
def test_options_change_no_value_and_no_gradient(params, changes):
    x = images()

    def loss(config):
        model = ParallelViT(config)
        rngs = {"drop_path": jax.random.key(3)}
        return jax.jit(
            jax.value_and_grad(
                lambda p: (model.apply({"params": p}, x, train=True, rngs=rngs) ** 2).mean()
            )
        )(params)

    value, gradients = loss(CONFIG)
    other, others = loss(dataclasses.replace(CONFIG, **changes))
    np.testing.assert_allclose(value, other, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_remat_recomputes_and_scan_loops(params):
    def text(**changes):
        model = ParallelViT(dataclasses.replace(CONFIG, attention="xla", **changes))
        step = jax.grad(lambda p: model.apply({"params": p}, images()).sum())
        return str(jax.make_jaxpr(step)(params))

    # Not a test of values alone: the options must really be in the program.
    assert "remat" not in text()
    assert "remat" in text(remat="full")
    assert " scan[" not in text()
    assert " scan[" in text(scan=True)


def test_bfloat16_computes_with_float32_parameters_and_residuals(params):
    exact = np.asarray(apply(params, images()))
    tokens = apply(params, images(), dtype="bfloat16")
    assert tokens.dtype == jnp.float32
    error = np.abs(np.asarray(tokens) - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.03
    # A residual of 1e-4 would vanish in a bfloat16 stream.
    small = jax.tree.map(lambda x: x, params)
    for block in ("block_00", "block_01"):
        small[block] = small[block] | {"layer_scale": jnp.full(32, 1e-4)}
    with_blocks = apply(small, images(), dtype="bfloat16")
    for block in ("block_00", "block_01"):
        small[block] = small[block] | {"layer_scale": jnp.zeros(32)}
    assert np.abs(np.asarray(with_blocks - apply(small, images(), dtype="bfloat16"))).max() > 1e-5


def test_gelu_is_the_exact_one():
    x = np.linspace(-9, 9, 4001).astype(np.float32)
    expected = x.astype(np.float64) * scipy.stats.norm.cdf(x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(gelu)(x), expected, rtol=1e-6, atol=5e-7)
    rounded = gelu(jnp.asarray(x, jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(np.float32), expected, rtol=2e-2, atol=2e-2)


def test_named_sizes():
    assert {"vit_s16", "vit_s8", "vit_b16", "vit_b8", "vit_l16", "vit_l8"} < set(ENCODERS)
    for name in ENCODERS:
        parallel_vit_config(name)
    assert parallel_vit_config("vit_h14").crop == 252
    assert parallel_vit_config("vit_l8").drop_path == 0.3
    assert mae_config("vit_l16").mask_ratio == 0.85
    assert mae_config("vit_l16", channel_agnostic=False).mask_ratio == 0.75
    with pytest.raises(InputError, match="did you mean 'vit_s16'"):
        parallel_vit_config("vit_s_16")
    with pytest.raises(InputError, match="did you mean 'width'"):
        parallel_vit_config("vit_s16", widht=3)
    with pytest.raises(InputError, match="multiple of patch"):
        parallel_vit_config("vit_s16", crop=250)
