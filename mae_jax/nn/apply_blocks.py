"""Runs a stack of equal blocks: in a row or as a loop, with or without recomputation."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = Any


def init_block(block: nn.Module, key: jax.Array, width: int) -> Params:
    """Fresh parameters of a block, shaped by one token.

    By plain attention, on which no parameter depends: a kernel would be split over the mesh that
    the program is traced for, and one sample cannot be. Networks also trace this when they are
    applied, to compare shapes.
    """
    example = jnp.zeros((1, 1, width))
    return block.clone(attention="xla").init(key, example)["params"]


def rematerialize(apply: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """`apply` with its intermediate values recomputed in the backward pass as `remat` says."""
    if remat == "none":
        return apply
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(apply, policy=policy)


def apply_blocks(
    apply: Callable[[Params, Any, Any], Any],
    params: Sequence[Params],
    x: Float[Array, "..."],
    extra: Float[Array, "depth batch"] | None = None,
    *,
    remat: str = "none",
    scan: bool = False,
) -> Float[Array, "..."]:
    """x after apply(params[0], x, extra[0]), apply(params[1], …), …

    Both ways take the same list of parameters. The loop stacks them inside the program, which
    holds one more copy of them and compiles one block instead of all.
    """
    apply = rematerialize(apply, remat)
    if scan and len(params) > 1:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)

        def step(carry: jax.Array, layer: Any) -> tuple[jax.Array, None]:
            return apply(layer[0], carry, layer[1]), None

        return jax.lax.scan(step, x, (stacked, extra))[0]
    for i, block in enumerate(params):
        x = apply(block, x, None if extra is None else extra[i])
    return x
