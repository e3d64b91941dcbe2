"""FLOPs by counting agree with the compiler's own count; memory comes from the compiled step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from mae_jax.models import MAE, DecoderConfig, EncoderConfig, MAEConfig
from mae_jax.plan import crop_flops, needs
from mae_jax.train.config import DataConfig, TrainConfig

JOINT = MAEConfig(
    EncoderConfig(patch=8, width=128, depth=2, heads=2, crop=64, channels=("DNA", "ER", "Mito"),
                  channel_agnostic=False, attention="xla"),
    DecoderConfig(width=128, depth=1, heads=2),
)  # fmt: skip


@pytest.mark.parametrize("channel_agnostic", [False, True])
def test_flops_agree_with_the_compiler(channel_agnostic):
    config = replace(JOINT, encoder=replace(JOINT.encoder, channel_agnostic=channel_agnostic))
    model = MAE(config)
    images = jnp.zeros((1, 3, 64, 64))
    rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    params = jax.jit(model.init)(rngs, images)
    forward = jax.jit(lambda p, x: model.apply(p, x, rngs={"mask": jax.random.key(1)}).prediction)
    compiled = forward.lower(params, images).compile().cost_analysis()["flops"]
    # The compiler also counts norms, softmax and GELU: some percent in so narrow a network.
    assert crop_flops(config, train=False) == pytest.approx(compiled, rel=0.12)


def test_the_paper_s_largest_model():
    """ViT-L/8, 75 % masked: reference-scale count of about 690 GFLOP a crop in training."""
    from mae_jax.models import mae_config

    six = ("DNA", "ER", "RNA", "AGP", "Mito", "Actin")
    config = mae_config("vit_l8", channel_agnostic=False, channels=six)
    assert crop_flops(config) == pytest.approx(690e9, rel=0.1)


def test_needs_of_a_small_run():
    config = TrainConfig(model=JOINT, data=DataConfig(batch=4), steps=10)
    need = needs(config, jax.devices()[:1])
    state = 2 * need.parameters * 4  # parameters and Lion's momentum
    assert state < need.state_bytes < 1.1 * state + 4 * 3 * 64 * 64 * 2
    assert need.collectives == {}
    assert need.crops == 40
    assert need.fits(2.0**40)
    assert not need.fits(float(need.state_bytes))
    assert need.device_hours(1e12, 0.5) == pytest.approx(10 * need.step_flops / 0.5e12 / 3600)
