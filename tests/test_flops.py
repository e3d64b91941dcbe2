"""FLOPs from plain numbers agree with the traced count, with published figures and the paper's."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from mae_jax.errors import InputError
from mae_jax.flops import (
    MAEShape,
    PublishedMAE,
    ViTShape,
    block_flops,
    embedding_flops,
    mae_forward_flops,
    mae_training_flops,
    paper_training_flops,
    vit_shape,
)
from mae_jax.networks.flops import traced_flops
from mae_jax.networks.mae import MAE, DecoderConfig, MAEConfig, ParallelViTConfig

LARGE = MAEShape(vit_shape("l", patch=8))


@pytest.mark.parametrize("channel_agnostic", [False, True])
@pytest.mark.parametrize("mask_ratio", [0.0, 0.75, 0.85])
def test_mae_equals_the_traced_count(channel_agnostic: bool, mask_ratio: float) -> None:
    config = MAEConfig(
        ParallelViTConfig(patch=8, width=32, depth=2, heads=2, mlp_ratio=3.0, crop=32,
                          attention="xla", channels=("DNA", "ER", "Mito"),
                          channel_agnostic=channel_agnostic),
        DecoderConfig(width=16, depth=2, heads=2, cross_heads=2),
        mask_ratio=mask_ratio,
    )  # fmt: skip
    shape = MAEShape(
        ViTShape(32, 2, 96, patch=8, crop=32, channels=3, channel_agnostic=channel_agnostic),
        mask_ratio, decoder_width=16, decoder_depth=2, decoder_hidden=64,
    )  # fmt: skip
    model = MAE(config)
    images = jnp.zeros((1, 3, 32, 32))
    rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
    params = jax.eval_shape(model.init, rngs, images)
    traced = traced_flops(
        lambda p, x: model.apply(p, x, rngs={"mask": rngs["mask"]}).prediction, params, images
    )
    assert mae_forward_flops(shape) == traced


def test_one_block_by_hand() -> None:
    n, d, h = 10, 8, 24
    products = 4 * n * d * d + 2 * n * d * h + 2 * n * n * d  # q, k, v, out; MLP; attention
    assert block_flops(n, d, h) == 2 * products


@pytest.mark.parametrize(("size", "giga"), [("s", 4.6), ("b", 17.5), ("l", 61.6)])
def test_published_counts_of_encoders(size: str, giga: float) -> None:
    """Touvron et al. count multiply-adds of a 224 px RGB image."""
    shape = vit_shape(size, crop=224, channels=3)
    assert embedding_flops(shape) / 2e9 == pytest.approx(giga, rel=0.01)


def test_masking_and_channels() -> None:
    whole = replace(LARGE, mask_ratio=0.0)
    assert mae_training_flops(LARGE) < 0.5 * mae_training_flops(whole)
    joint, agnostic = vit_shape("b"), vit_shape("b", channel_agnostic=True)
    assert agnostic.tokens == 6 * joint.tokens == 1536
    assert mae_training_flops(MAEShape(agnostic)) > 4 * mae_training_flops(MAEShape(joint))
    assert mae_training_flops(LARGE, 10.0) == 10 * mae_training_flops(LARGE)
    # ViT-L/8 at 75 %: about 690 GFLOP per crop, forward and backward.
    assert mae_training_flops(LARGE) / 1e9 == pytest.approx(690, rel=0.1)


def test_the_papers_count() -> None:
    assert paper_training_flops(vit_shape("L"), 1.0) == pytest.approx(61.6e9 * 1.69)
    assert paper_training_flops(LARGE.encoder, 3.5e9) == pytest.approx(61.6e9 * 1.69 * 16 * 3.5e9)
    with pytest.raises(InputError, match=r"patch 14.*patch 16 or 8"):
        paper_training_flops(vit_shape("l", patch=14), 1.0)
    with pytest.raises(InputError, match="width 1280"):
        paper_training_flops(vit_shape("h"), 1.0)


def test_a_published_size_by_name() -> None:
    assert PublishedMAE("L", patch=8).shape == LARGE
    assert PublishedMAE("S", decoder=(256, 4)).shape.decoder_hidden == 1024


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"'xl' is no ViT size.*ti, s, b, l"):
        vit_shape("xl")


def test_needs_no_jax() -> None:
    code = "import sys, mae_jax.flops; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
