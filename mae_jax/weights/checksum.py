"""Checksums of arrays that do not depend on how the arrays are sharded or stored.

The checksum of an array is two sums modulo 2³² over all elements: of the element's bits, mixed
with its index by the finalizer of MurmurHash3. The sums commute, so that every device adds up its
own shard and the result is the same on any mesh; changing a single element always changes both
sums, and any other change goes unnoticed with probability 2⁻⁶⁴.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

_SEEDS = (0x9E3779B9, 0x85EBCA6B)


def checksum(array: Array) -> UInt32[Array, " 2"]:
    """The checksum of one array of any type and shape; pure, to be used under `jax.jit`."""
    array = jnp.asarray(array)
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    # Elements of 8 bytes gain a last dimension of two words.
    words = jax.lax.bitcast_convert_type(array, _WORDS[min(array.dtype.itemsize, 4)])
    words = words.astype(jnp.uint32)
    # Not by a reshape, which would move shards between devices.
    index = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index + iota * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.stack(
        [_mixed(words ^ _mixed(index + jnp.uint32(seed))).sum(dtype=jnp.uint32) for seed in _SEEDS]
    )


_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def _mixed(bits: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    # The finalizer of MurmurHash3 (fmix32): a bijection.
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


@jax.jit
def stacked_checksums(tree: Any) -> UInt32[Array, "leaves 2"]:
    """The checksums of all leaves of a pytree that is not empty, in the order of the tree."""
    return jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(tree)])


def to_hex(tree: Any, stacked: np.ndarray) -> dict[str, str]:
    """`stacked_checksums(tree)` by the leaves' paths, such as "params/encoder/cls_token"."""
    return {
        name: f"{first:08x}{second:08x}"
        for name, (first, second) in zip(leaf_names(tree), stacked.tolist(), strict=True)
    }


def leaf_names(tree: Any) -> list[str]:
    """The paths of the leaves of a pytree, joined by slashes."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def mismatches(tree: Any, stacked: np.ndarray, expected: Mapping[str, str]) -> list[str]:
    """The leaves of `tree` whose checksum is missing in `expected` or differs from it."""
    actual = to_hex(tree, stacked)
    return [name for name, value in actual.items() if expected.get(name) != value]
