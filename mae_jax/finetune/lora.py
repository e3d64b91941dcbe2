"""Low-rank adaptation (LoRA) of an encoder's weight matrices."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.errors import InputError
from mae_jax.finetune.optimizers import dotted_name

LoRAParams = dict[str, dict[str, Float[Array, "rows columns"]]]

# The attention and MLP matrices of parallel and of pre-norm blocks.
LORA_TARGETS = (
    r"(.*\.)?block_\d+\.(in_proj|(attn_out_proj|mlp_out_proj|qkv|proj)\.kernel|mlp\.fc\d\.kernel)"
)


def lora_init(
    rng: PRNGKeyArray, params: PyTree[jax.Array], *, rank: int = 8, targets: str = LORA_TARGETS
) -> LoRAParams:
    """Initialize low-rank updates of all matrices whose dotted names match `targets`.

    Returns:
      {name: {"a": (in, rank), "b": (rank, out)}} with b zero, so that the merged parameters
      equal `params` at first.

    Raises:
      InputError: no matrix matches.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = [(dotted_name(path), leaf) for path, leaf in leaves]
    matches = [(name, leaf) for name, leaf in named if re.fullmatch(targets, name)]
    if not matches:
        raise InputError(f"no parameter matches the LoRA targets '{targets}'.")
    lora = {}
    for (name, leaf), key in zip(matches, jax.random.split(rng, len(matches)), strict=True):
        a = jax.random.normal(key, (leaf.shape[0], rank)) / rank**0.5
        lora[name] = {"a": a / leaf.shape[0] ** 0.5, "b": jnp.zeros((rank, leaf.shape[1]))}
    return lora


def lora_merge(
    params: PyTree[jax.Array], lora: LoRAParams, *, scale: float = 1.0
) -> PyTree[jax.Array]:
    """Add every low-rank product to its matrix; differentiable with respect to `lora`."""

    def merge(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        update = lora.get(dotted_name(path))
        return leaf if update is None else leaf + scale * (update["a"] @ update["b"])

    return jax.tree_util.tree_map_with_path(merge, params)
