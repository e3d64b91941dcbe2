import math

import numpy as np

from mae_jax.nn.pos_embed import sincos_pos_embed


def test_every_entry_by_the_definition():
    dim, height, width = 16, 3, 5
    table = sincos_pos_embed(height, width, dim)
    assert table.shape == (15, 16)
    for h in range(height):
        for w in range(width):
            omega = [10000 ** (-k / (dim / 4)) for k in range(dim // 4)]
            row = [math.sin(h * o) for o in omega] + [math.cos(h * o) for o in omega]
            row += [math.sin(w * o) for o in omega] + [math.cos(w * o) for o in omega]
            np.testing.assert_allclose(table[h * width + w], row, atol=1e-7)


def test_channels_repeat_the_table_behind_a_zero_row():
    one = sincos_pos_embed(2, 2, 8)
    table = sincos_pos_embed(2, 2, 8, channels=3, class_token=True)
    assert not table[0].any()
    np.testing.assert_array_equal(table[1:], np.concatenate([one, one, one]))
