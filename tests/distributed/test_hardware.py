"""Slices by name, as the vendors count them."""

import pytest

from mae_jax.errors import InputError
from mae_jax.planning import slice_of


@pytest.mark.parametrize(
    ("name", "devices", "topology"),
    [
        ("v5p-256", 128, "v5p:4x4x8"),
        ("v5p-8", 4, "v5p:2x2x1"),
        ("v4-64", 32, "v4:2x4x4"),
        ("v5e-256", 256, "v5e:16x16"),
        ("v5litepod-8", 8, "v5e:2x4"),
        ("v6e-128", 128, "v6e:8x16"),
    ],
)
def test_tpu_slices(name, devices, topology):
    found = slice_of(name)
    assert (found.devices, found.topology) == (devices, topology)


def test_gpu_clusters_count_gpus():
    assert slice_of("H100-24").devices == 24
    assert slice_of("h200-8").usable == pytest.approx(0.95 * 141e9)


@pytest.mark.parametrize(
    ("name", "says"),
    [("v9-8", "no chip is called 'v9'"), ("tpu", "no name of a slice"), ("v5p-3", "whole chips"),
     ("v5e-48", "power of two"), ("h100-0", "whole chips")],
)  # fmt: skip
def test_names_that_are_none(name, says):
    with pytest.raises(InputError, match=says):
        slice_of(name)
