"""The kinds of network that a saved model can hold, by the name in its config.json."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from mae_jax.config import from_saved, nearest, to_dict
from mae_jax.errors import InputError
from mae_jax.networks.densenet.model import DenseNet, DenseNetConfig
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.parallel_vit import ParallelViT
from mae_jax.networks.unet.model import MUNet, UNetConfig
from mae_jax.networks.vit.model import ViT, ViTConfig

KINDS: dict[str, type] = {
    "mae": MAEConfig,
    "parallel_vit": ParallelViTConfig,
    "vit": ViTConfig,
    "densenet": DenseNetConfig,
    "unet": UNetConfig,
}

# Kinds in the files of models that version 0.1 saved.
_OLD_KINDS = {"encoder": "parallel_vit", "mu-net": "unet"}


def kind_of(config: Any) -> str:
    """The name of a config's kind.

    Raises:
      InputError: no kind has such a config.
    """
    for kind, schema in KINDS.items():
        if type(config) is schema:
            return kind
    raise InputError(f"a saved model cannot hold a {type(config).__name__}.")


def to_record(config: Any) -> dict[str, Any]:
    """Kind and architecture, ready for JSON."""
    return {"kind": kind_of(config), "architecture": to_dict(config)}


def from_record(record: dict[str, Any], where: str) -> Any:
    """The inverse of `to_record`.

    Raises:
      InputError: an unknown kind, or an architecture that does not fit its schema.
    """
    kind = _OLD_KINDS.get(str(record.get("kind")), record.get("kind"))
    if kind not in KINDS:
        raise InputError(
            f"{where} has the unknown kind '{kind}': {nearest(str(kind), list(KINDS))}"
        )
    if "architecture" not in record:
        raise InputError(f"{where} has no 'architecture'; save the model anew.")
    return from_saved(KINDS[kind], record["architecture"], f"{where}: architecture")


def init_params(config: Any, rng: jax.Array) -> dict[str, Any]:
    """Fresh parameters of the network that `config` describes.

    Those of a DenseNet are {"params": …, "batch_stats": …}: its running statistics belong to it.
    """
    if isinstance(config, MAEConfig):
        model: Any = MAE(config)
        return model.init({"params": rng, "mask": rng}, example_images(config.encoder))["params"]
    if isinstance(config, ParallelViTConfig):
        return ParallelViT(config).init(rng, example_images(config))["params"]
    if isinstance(config, ViTConfig):
        side = config.patch * config.grid
        images = jnp.zeros((1, len(config.channels), side, side))
        return ViT(config).init(rng, images)["params"]
    if isinstance(config, DenseNetConfig):
        images = jnp.zeros((1, len(config.channels), 64, 64))
        return dict(DenseNet(config).init(rng, images))
    if isinstance(config, UNetConfig):
        side = math.lcm(config.stride, config.patch)
        images = jnp.zeros((1, len(config.channels), side, side))
        return MUNet(config).init({"params": rng, "mask": rng}, images)["params"]
    raise InputError(f"cannot build a network from a {type(config).__name__}.")


def param_shapes(config: Any) -> dict[str, Any]:
    """The parameters' shapes and types, without computing any."""
    return jax.eval_shape(lambda rng: init_params(config, rng), jax.random.key(0))


def example_images(config: ParallelViTConfig) -> jax.Array:
    """One black image, as small as the patch allows: enough to shape every parameter."""
    return jnp.zeros((1, len(config.channels), 2 * config.patch, 2 * config.patch))
