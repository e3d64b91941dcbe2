"""Encoders of the first blocks embed as the whole ones do with that block."""

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import init_params, make_encoder, param_shapes
from mae_jax.networks.trimming import trim_blocks
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import flatten, flatten_leaves

CONFIGS = {
    "mae": MAEConfig(
        encoder=ParallelViTConfig(
            patch=8, width=16, depth=3, heads=2, crop=16, channels=("a", "b"), final_norm=True
        ),
        decoder=DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    ),
    "vit": vit_config(
        "subcell", width=16, heads=2, depth=3, patch=8, grid=2, channels=("a", "b"), classes=3
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_trimmed_encoder_embeds_as_that_block(kind):
    config = CONFIGS[kind]
    params = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.05, params)
    preprocessing = Preprocessing(("a", "b"), crop=16, scale=255.0)
    whole = make_encoder(config, params, preprocessing)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 2, 16, 16)).astype(np.uint8)
    for blocks in (2, 3):
        small, kept = trim_blocks(config, params, blocks)
        assert flatten(kept).keys() == flatten_leaves(param_shapes(small)).keys()
        trimmed = make_encoder(small, kept, preprocessing)
        assert trimmed.num_params < sum(v.size for v in flatten(params).values())
        wanted = whole.embed(pixels, block=1 if blocks == 2 else None)
        np.testing.assert_allclose(trimmed.embed(pixels), wanted, rtol=1e-6, atol=1e-6)
    assert np.abs(np.asarray(whole.embed(pixels) - whole.embed(pixels, block=1))).max() > 1e-3
    with pytest.raises(InputError, match="from 1 to 3, not 4"):
        trim_blocks(config, params, 4)


def test_networks_without_blocks_are_refused():
    with pytest.raises(InputError, match="'unet' has no blocks"):
        trim_blocks(UNetConfig(channels=("a",)), {}, 2)
