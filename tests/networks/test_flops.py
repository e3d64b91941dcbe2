"""FLOPs by formula, by the trace and by the compiler agree with each other and with the paper's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from mae_jax.errors import InputError
from mae_jax.networks.densenet.config import DenseNetConfig
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.mae import (
    MAE,
    DecoderConfig,
    MAEConfig,
    ParallelViTConfig,
    mae_config,
    parallel_vit_config,
)
from mae_jax.networks.mae.flops import embedding_flops
from mae_jax.networks.registry import make_task
from mae_jax.networks.unet.config import UNetConfig
from mae_jax.networks.vit.config import vit_config

JOINT = MAEConfig(
    ParallelViTConfig(patch=8, width=128, depth=2, heads=2, crop=64, channels=("DNA", "ER", "Mito"),
                  channel_agnostic=False, attention="xla"),
    DecoderConfig(width=128, depth=1, heads=2),
)  # fmt: skip
SIX = ("DNA", "ER", "RNA", "AGP", "Mito", "Actin")


def forward(config: MAEConfig):
    model = MAE(config)
    encoder = config.encoder
    images = jnp.zeros((1, len(encoder.channels), encoder.crop, encoder.crop))
    rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    params = jax.eval_shape(model.init, rngs, images)
    return lambda p, x: model.apply(p, x, rngs={"mask": rngs["mask"]}).prediction, params, images


@pytest.mark.parametrize("channel_agnostic", [False, True])
def test_formula_trace_and_compiler_agree(channel_agnostic):
    config = replace(JOINT, encoder=replace(JOINT.encoder, channel_agnostic=channel_agnostic))
    apply, params, images = forward(config)
    by_formula = make_task(config).forward_flops
    assert by_formula == pytest.approx(traced_flops(apply, params, images), rel=0.01)
    compiled = jax.jit(apply).lower(params, images).compile().cost_analysis()["flops"]
    # The compiler also counts norms, softmax and GELU: some percent in so narrow a network.
    assert by_formula == pytest.approx(compiled, rel=0.12)


def test_loops_count_as_often_as_they_run():
    looped = replace(JOINT, encoder=replace(JOINT.encoder, scan=True, remat="full"))
    assert traced_flops(*forward(looped)) == traced_flops(*forward(JOINT))


def test_a_loop_without_an_end_is_refused():
    def endless(x):
        return jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(InputError, match="rounds"):
        traced_flops(endless, jnp.eye(2))


def test_the_paper_s_largest_model():
    """ViT-L/8, 75 % masked: reference-scale count of about 690 GFLOP a crop in training."""
    config = mae_config("vit_l8", channel_agnostic=False, channels=SIX)
    assert make_task(config).flops == pytest.approx(690e9, rel=0.1)


def test_published_counts_of_classifiers():
    """Multiply-adds at 224 px and three channels: DenseNet-161 7.8 G, ViT-B/16 17.5 G."""
    dense = DenseNetConfig(channels=SIX[:3])
    assert make_task(dense, 224).forward_flops == pytest.approx(2 * 7.8e9, rel=0.02)
    vit = vit_config("vit_b16", channels=SIX[:3], grid=14)
    assert make_task(vit).forward_flops == pytest.approx(2 * 17.5e9, rel=0.02)
    assert make_task(vit).flops == 3 * make_task(vit).forward_flops


def test_an_encoder_that_masks_nothing():
    """The timm model card's 17.5 G multiply-adds of ViT-B/16 at 224 px, less its classifier."""
    config = parallel_vit_config("vit_b16", channels=SIX[:3], channel_agnostic=False, crop=224)
    assert embedding_flops(config) == pytest.approx(2 * 17.5e9, rel=0.02)
    agnostic = replace(config, channel_agnostic=True)
    assert embedding_flops(agnostic, channels=1) == pytest.approx(embedding_flops(config), rel=0.02)


def test_a_u_net_s_convolutions():
    config = UNetConfig(
        widths=(8, 16), convolutions=(1, 1), channels=("DNA",), crop=16, patch=4, kernel=3
    )
    # Down: 16² × 9·1·8 and 8² × 9·8·16; up: 8² → 16² by 2 × 2 kernels, 16² × 9·16·8; head 16² × 8.
    products = 256 * 72 + 64 * 1152 + 256 * 16 * 8 + 256 * 1152 + 256 * 8
    assert make_task(config).forward_flops == 2 * products
