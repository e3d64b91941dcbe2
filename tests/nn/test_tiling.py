"""Tiles see every pixel, and a field of multiples is cut without overlap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae_jax.errors import InputError
from mae_jax.nn.tiling import tile_offsets


def test_the_papers_64_crops() -> None:
    offsets = tile_offsets(2048, 2048, 256)
    assert offsets.shape == (64, 2)
    assert offsets[1].tolist() == [0, 256]
    seen = np.zeros((2048, 2048), int)
    for top, left in offsets:
        seen[top : top + 256, left : left + 256] += 1
    assert (seen == 1).all()


def test_partial_border_is_shared_out() -> None:
    starts = sorted({int(top) for top, _ in tile_offsets(1080, 1080, 256)})
    assert starts == [0, 206, 412, 618, 824]


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 30))
def test_every_pixel_is_seen_by_the_fewest_tiles(height: int, width: int, crop: int) -> None:
    if height < crop or width < crop:
        with pytest.raises(InputError, match="smaller"):
            tile_offsets(height, width, crop)
        return
    offsets = tile_offsets(height, width, crop)
    seen = np.zeros((height, width), int)
    for top, left in offsets:
        assert 0 <= top <= height - crop
        assert 0 <= left <= width - crop
        seen[top : top + crop, left : left + crop] += 1
    assert seen.min() >= 1
    assert len(offsets) == -(-height // crop) * -(-width // crop)
    if height % crop == 0 and width % crop == 0:
        assert seen.max() == 1
