"""Thumbnails of color images keep their colors."""

from io import BytesIO

import numpy as np
from PIL import Image

from mae_jax.viz.thumbnails import encode, shrink


def test_a_color_image_keeps_its_colors() -> None:
    image = np.zeros((3, 32, 32), np.uint8)
    image[0, :, :16] = 250
    image[1, 16:] = 250
    image[2, :8] = 100
    shown = np.asarray(Image.open(BytesIO(encode(shrink(image, 32), ("Red", "Green", "Blue")))))
    assert shown[0, 0].tolist() == [255, 0, 102]
    assert shown[31, 31].tolist() == [0, 255, 0]
    assert shown[31, 0].tolist() == [255, 255, 0]
    assert shown[12, 31].tolist() == [0, 0, 0]
    swapped = encode(shrink(image[[2, 0, 1]], 32), ("Blue", "Red", "Green"))
    assert np.array_equal(np.asarray(Image.open(BytesIO(swapped))), shown)
