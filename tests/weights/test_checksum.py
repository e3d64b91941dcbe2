"""Checksums: every change of an element is seen, and no sharding changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mae_jax.weights.checksum import checksum, leaf_names, mismatches, stacked_checksums, to_hex


def reference(array: np.ndarray) -> list[int]:
    """The definition, in Python's own integers."""

    def mixed(bits: int) -> int:
        bits = (bits ^ (bits >> 16)) * 0x85EBCA6B % 2**32
        bits = (bits ^ (bits >> 13)) * 0xC2B2AE35 % 2**32
        return bits ^ (bits >> 16)

    size = array.dtype.itemsize
    words = np.ascontiguousarray(array).reshape(-1).view(f"<u{size}").tolist()
    return [
        sum(mixed(word ^ mixed((i + seed) % 2**32)) for i, word in enumerate(words)) % 2**32
        for seed in (0x9E3779B9, 0x85EBCA6B)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16, np.uint8, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 2)])
def test_the_checksum_is_as_defined(dtype, shape):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    assert np.asarray(checksum(jnp.asarray(array))).tolist() == reference(array)


def test_every_flipped_bit_and_every_swap_of_unequal_elements_is_seen():
    rng = np.random.default_rng(0)
    array = rng.standard_normal((4, 6)).astype(np.float32)
    sums = jax.jit(checksum)
    before = np.asarray(sums(array)).tolist()
    for bit in range(array.nbytes * 8):
        changed = array.copy()
        changed.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        after = np.asarray(sums(changed)).tolist()
        assert after[0] != before[0]
        assert after[1] != before[1]
    swapped = array.copy()
    swapped[0, 0], swapped[1, 1] = array[1, 1], array[0, 0]
    assert np.asarray(sums(swapped)).tolist() != before
    assert np.asarray(sums(array.reshape(6, 4))).tolist() == before


@pytest.mark.parametrize("spec", [P(), P("a"), P(None, "b"), P("a", "b"), P(("a", "b"))])
def test_sharding_changes_nothing(spec):
    array = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    sharded = jax.device_put(array, NamedSharding(mesh, spec))
    np.testing.assert_array_equal(stacked_checksums([sharded])[0], reference(array))


def test_leaves_that_differ_or_are_missing_are_named():
    tree = {"params": {"a": jnp.ones(3), "b": jnp.zeros(())}, "steps": [jnp.int32(1)]}
    assert leaf_names(tree) == ["params/a", "params/b", "steps/0"]
    stacked = np.asarray(stacked_checksums(tree))
    expected = to_hex(tree, stacked)
    assert mismatches(tree, stacked, expected) == []
    del expected["steps/0"]
    expected["params/a"] = "0" * 16
    assert mismatches(tree, stacked, expected) == ["params/a", "steps/0"]
