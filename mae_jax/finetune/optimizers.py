"""Optimizers that freeze parameters or decay the learning rate per layer."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import optax
from jaxtyping import PyTree

from mae_jax.errors import InputError


def dotted_names(params: PyTree[jax.Array]) -> PyTree[str]:
    """Return a tree of the same structure with every leaf's dotted name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: dotted_name(path), params)


def dotted_name(path: tuple[Any, ...]) -> str:
    """Return a key path of `jax.tree_util` as a dotted name."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def trainable_mask(params: PyTree[jax.Array], trainable: Sequence[str]) -> PyTree[bool]:
    """Mark the leaves whose dotted name equals, or is below, one of `trainable`.

    Raises:
      InputError: a name in `trainable` matches no parameter.
    """
    names = dotted_names(params)
    leaves = jax.tree.leaves(names)
    for prefix in trainable:
        if not any(_is_below(name, prefix) for name in leaves):
            raise InputError(
                f"no parameter is called '{prefix}'; the top-level names are "
                f"{', '.join(sorted({name.split('.')[0] for name in leaves}))}."
            )
    return jax.tree.map(lambda name: any(_is_below(name, p) for p in trainable), names)


def freeze(
    optimizer: optax.GradientTransformation, params: PyTree[jax.Array], trainable: Sequence[str]
) -> optax.GradientTransformation:
    """Apply `optimizer` to the parameters named in `trainable` and freeze all others.

    Raises:
      InputError: a name in `trainable` matches no parameter.
    """
    labels = jax.tree.map(
        lambda train: "train" if train else "freeze", trainable_mask(params, trainable)
    )
    return optax.multi_transform({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def layer_decay(
    optimizer: optax.GradientTransformation,
    params: PyTree[jax.Array],
    *,
    decay: float,
    depth: int,
) -> optax.GradientTransformation:
    """Scale the updates of `optimizer` by decay^(depth - layer).

    Layer 0 is the patch embedding, class token and position table; layer i + 1 is block i;
    everything else (the final norm, heads) is scaled by 1.
    """

    def scale(name: str) -> float:
        block = re.search(r"(?:^|\.)block_(\d+)\.", name)
        if block:
            return decay ** (depth - 1 - int(block.group(1)))
        if re.search(r"(?:^|\.)(patch_embed|cls_token|pos_embed)(?:\.|$)", name):
            return decay**depth
        return 1.0

    scales = jax.tree.map(scale, dotted_names(params))

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(lambda u, s: u * s, updates, scales), state

    scaling = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
    return optax.chain(optimizer, scaling)


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
