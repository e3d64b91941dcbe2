"""Fine-tuning: probes, LoRA, frozen parts and layer-wise learning rates, for any encoder here.

An encoder's parameters stay plain nested dicts, and heads live apart from them, so fine-tuning is
ordinary optax:

    encoder = mae_jax.load_encoder("runs/demo/train")
    probe = LinearProbe(classes=20)
    head = probe.init(jax.random.key(0), encoder.embed(crops))["params"]
    params = {"encoder": encoder.params, "head": head}
    tx = freeze(optax.adamw(1e-3), params, trainable=("head", "encoder.block_11"))

    def loss(params, crops, labels):
        features = encoder.forward(params["encoder"], crops)
        logits = probe.apply({"params": params["head"]}, features)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

`benchmarks/finetune.py` does all of this for the perturbations of a screen.

With LoRA the trained tree is `lora_init(…)` and the encoder gets `lora_merge(params, lora)`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mae_jax.errors import InputError
from mae_jax.kernels.attention import attention
from mae_jax.nn.blocks import Dense, LayerNorm, merge_heads, split_heads

Params = Any

# The matrices of attention and MLP, in encoder blocks and in ordinary ones.
LORA_TARGETS = (
    r"(.*\.)?block_\d+\.(in_proj|(attn_out_proj|mlp_out_proj|qkv|proj)\.kernel|mlp\.fc\d\.kernel)"
)


class LinearProbe(nn.Module):
    """Class scores from embeddings: a norm without parameters, then one linear layer."""

    classes: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch dim"]) -> Float[Array, "batch classes"]:
        features = features.astype(jnp.float32)
        centred = features - features.mean(axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + 1e-6)
        return Dense(self.classes)(normed)


class AttentiveProbe(nn.Module):
    """Class scores from tokens: one learned query attends to all of them."""

    classes: int
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch tokens dim"]) -> Float[Array, "batch classes"]:
        batch, _, dim = tokens.shape
        query = self.param("query", nn.initializers.normal(0.02), (1, 1, dim))
        normed = LayerNorm(name="norm")(tokens)
        k = split_heads(Dense(dim, name="key")(normed), self.heads)
        v = split_heads(Dense(dim, name="value")(normed), self.heads)
        q = split_heads(jnp.broadcast_to(query, (batch, 1, dim)), self.heads)
        pooled = merge_heads(attention(q, k, v))[:, 0]
        return Dense(self.classes, name="head")(LayerNorm(name="out_norm")(pooled))


def dotted_names(params: Params) -> Params:
    """A tree of the same structure that holds every leaf's dotted name."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _name(path), params)


def trainable_mask(params: Params, trainable: Sequence[str]) -> Params:
    """True for leaves whose dotted name is one of `trainable` or lies below one.

    Raises:
      InputError: a name that is no part of the tree.
    """
    names = dotted_names(params)
    for wanted in trainable:
        if not any(_below(name, wanted) for name in jax.tree.leaves(names)):
            raise InputError(
                f"there is no parameter '{wanted}'; the first parts are "
                f"{', '.join(sorted({name.split('.')[0] for name in jax.tree.leaves(names)}))}."
            )
    return jax.tree.map(lambda name: any(_below(name, w) for w in trainable), names)


def freeze(
    optimizer: optax.GradientTransformation, params: Params, trainable: Sequence[str]
) -> optax.GradientTransformation:
    """`optimizer` for the parts named in `trainable`; all others never change.

    Raises:
      InputError: a name that is no part of the tree.
    """
    labels = jax.tree.map(
        lambda train: "train" if train else "freeze", trainable_mask(params, trainable)
    )
    return optax.multi_transform({"train": optimizer, "freeze": optax.set_to_zero()}, labels)


def layer_decay(
    optimizer: optax.GradientTransformation, params: Params, *, decay: float, depth: int
) -> optax.GradientTransformation:
    """`optimizer` with its updates scaled by decay^(depth - layer).

    Layer 0 are the patches, the class token and positions; layer i + 1 is block i; everything
    that belongs to neither (norms behind the blocks, heads) is scaled by 1.
    """

    def scale(name: str) -> float:
        block = re.search(r"(?:^|\.)block_(\d+)\.", name)
        if block:
            return decay ** (depth - 1 - int(block.group(1)))
        if re.search(r"(?:^|\.)(patch_embed|cls_token|pos_embed)(?:\.|$)", name):
            return decay**depth
        return 1.0

    scales = jax.tree.map(scale, dotted_names(params))

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        return jax.tree.map(lambda u, s: u * s, updates, scales), state

    scaling = optax.GradientTransformation(lambda _: optax.EmptyState(), update)
    return optax.chain(optimizer, scaling)


def lora_init(
    rng: jax.Array, params: Params, *, rank: int = 8, targets: str = LORA_TARGETS
) -> dict[str, dict[str, Array]]:
    """Low-rank updates of all matrices whose dotted names match `targets`.

    Returns:
      {name: {"a": (in, rank), "b": (rank, out)}} with b zero, so that nothing changes at first.

    Raises:
      InputError: no matrix matches.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named = [(_name(path), leaf) for path, leaf in leaves]
    chosen = [(name, leaf) for name, leaf in named if re.fullmatch(targets, name)]
    if not chosen:
        raise InputError(f"no parameter matches the LoRA targets '{targets}'.")
    lora = {}
    for (name, leaf), key in zip(chosen, jax.random.split(rng, len(chosen)), strict=True):
        a = jax.random.normal(key, (leaf.shape[0], rank)) / rank**0.5
        lora[name] = {"a": a / leaf.shape[0] ** 0.5, "b": jnp.zeros((rank, leaf.shape[1]))}
    return lora


def lora_merge(params: Params, lora: dict[str, dict[str, Array]], *, scale: float = 1.0) -> Params:
    """The parameters with every low-rank product added; differentiable by `lora`."""

    def merge(path: Any, leaf: jax.Array) -> jax.Array:
        update = lora.get(_name(path))
        return leaf if update is None else leaf + scale * (update["a"] @ update["b"])

    return jax.tree_util.tree_map_with_path(merge, params)


def fit(
    loss: Callable[..., jax.Array],
    params: Params,
    batches: Iterable[tuple[Any, ...]],
    optimizer: optax.GradientTransformation,
) -> tuple[Params, list[float]]:
    """One pass of a compiled training step over `batches`; the parameters and the losses.

    Args:
      loss: of (params, *batch).
    """

    @jax.jit
    def step(params: Params, state: Any, batch: tuple[Any, ...]) -> tuple[Params, Any, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    losses = []
    for batch in batches:
        params, state, value = step(params, state, batch)
        losses.append(value)
    return params, [float(value) for value in losses]


def _name(path: Any) -> str:
    return ".".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)


def _below(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
