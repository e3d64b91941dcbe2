"""The paper's FLOPs and a true count, which must agree with what is known of these networks."""

import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation.paper_flops import (
    Shape,
    embedding_flops,
    paper_flops,
    training_flops,
    transformer_flops,
)


def test_papers_count() -> None:
    assert paper_flops(Shape("L", 16), 1.0) == pytest.approx(61.6e9 * 1.69)
    assert paper_flops(Shape("L", 8), 3.5e9) == pytest.approx(61.6e9 * 1.69 * 16 * 3.5e9)
    with pytest.raises(InputError, match="patch 16 or 8"):
        paper_flops(Shape("L", 14), 1.0)


@pytest.mark.parametrize(("size", "giga"), [("S", 4.6), ("B", 17.5), ("L", 61.6)])
def test_true_count_gives_touvrons_figures(size: str, giga: float) -> None:
    """Theirs are multiply-adds of a 224 px RGB image, ours are 2 a multiply-add."""
    shape = Shape(size, 16, crop=224, channels=3)
    assert embedding_flops(shape) / 2e9 == pytest.approx(giga, rel=0.01)


def test_masking_and_channels() -> None:
    whole, masked = Shape("L", 8, mask_ratio=0.0), Shape("L", 8, mask_ratio=0.75)
    assert training_flops(masked, 1.0) < 0.5 * training_flops(whole, 1.0)
    joint, agnostic = Shape("B"), Shape("B", channel_agnostic=True)
    assert agnostic.tokens == 6 * joint.tokens == 1536
    assert training_flops(agnostic, 1.0) > 4 * training_flops(joint, 1.0)
    assert training_flops(joint, 10.0) == 10 * training_flops(joint, 1.0)
    # ViT-L/8 at 75 %: about 690 GFLOP a crop, forward and backward.
    assert training_flops(masked, 1.0) / 1e9 == pytest.approx(690, rel=0.15)


def test_one_block_by_hand() -> None:
    n, d = 10, 8
    products = 4 * n * d * d + 2 * n * d * 4 * d + 2 * n * n * d  # qkv and out; MLP; attention
    assert transformer_flops(n, d, 1) == 2 * products
