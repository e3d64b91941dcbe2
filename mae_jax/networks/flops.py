"""Floating-point operations of the networks: of transformers by formula, of any by its trace.

A multiply and an add count as two; only matrix products and convolutions count, as in all
published figures of model FLOPs.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from mae_jax import flops
from mae_jax.errors import InputError
from mae_jax.networks.densenet.model import DenseNet, DenseNetConfig
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.unet.model import MUNet, UNetConfig
from mae_jax.networks.vit.model import ViT, ViTConfig

NetworkConfig = MAEConfig | UNetConfig | DenseNetConfig | ViTConfig


def crop_flops(config: NetworkConfig, *, train: bool = True, crop: int = 256) -> float:
    """FLOPs of one crop through a network as it is trained.

    The backward pass takes twice the forward one, so `train` is three times the forward pass;
    what rematerialisation computes again is not counted (it is not the model's).

    Args:
      crop: side in pixels, of networks whose config does not name one (classifiers).
    """
    if isinstance(config, MAEConfig):
        forward = flops.mae_forward_flops(mae_shape(config))
    else:
        model, side = _network(config, crop)
        images = jnp.zeros((1, len(config.channels), side, side))
        rngs = {"params": jax.random.key(0), "mask": jax.random.key(1)}
        method = "logits" if isinstance(config, ViTConfig) and config.classes else "__call__"
        whole: dict[str, Any] = {}
        if isinstance(config, DenseNetConfig) and config.classes:
            whole["output"] = "logits"
        variables = jax.eval_shape(model.init, rngs, images)
        forward = traced_flops(
            lambda v, x: model.apply(v, x, method=method, rngs={"mask": rngs["mask"]}, **whole),
            variables,
            images,
        )
    return forward * (3 if train else 1)


def embedding_flops(config: ParallelViTConfig, *, channels: int | None = None) -> float:
    """FLOPs of embedding one crop: the encoder on all tokens, nothing masked.

    Args:
      channels: of the image, where they differ from the config's (channel-agnostic encoders).
    """
    return flops.embedding_flops(encoder_shape(config, channels=channels))


def encoder_shape(config: ParallelViTConfig, *, channels: int | None = None) -> flops.ViTShape:
    """The numbers of an encoder config that determine its FLOPs."""
    return flops.ViTShape(
        width=config.width,
        depth=config.depth,
        hidden=config.hidden,
        patch=config.patch,
        crop=config.crop,
        channels=len(config.channels) if channels is None else channels,
        channel_agnostic=config.channel_agnostic,
    )


def mae_shape(config: MAEConfig) -> flops.MAEShape:
    """The numbers of an MAE config that determine its FLOPs."""
    return flops.MAEShape(
        encoder=encoder_shape(config.encoder),
        mask_ratio=config.mask_ratio,
        decoder_width=config.decoder.width,
        decoder_depth=config.decoder.depth,
        decoder_hidden=round(config.decoder.width * config.decoder.mlp_ratio),
    )


def traced_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """FLOPs of `function`, counted in its trace: loops as often as they run, nothing is computed.

    Raises:
      InputError: a loop whose number of rounds is not fixed, or a kernel that cannot be looked
        into.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _network(config: NetworkConfig, crop: int) -> tuple[Any, int]:
    if isinstance(config, UNetConfig):
        return MUNet(config), config.crop
    if isinstance(config, DenseNetConfig):
        return DenseNet(config), crop
    assert isinstance(config, ViTConfig)
    return ViT(config), config.grid * config.patch


def _count(jaxpr: core.Jaxpr) -> float:
    return sum((_equation(equation) for equation in jaxpr.eqns), 0.0)


def _equation(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        out = math.prod(equation.outvars[0].aval.shape)
        return 2.0 * out * math.prod(shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        numbers = equation.params["dimension_numbers"]
        outputs = kernel[numbers.rhs_spec[0]]
        # A kernel holds its inputs by group already. Products with the zeros that a transposed
        # convolution puts between its inputs do not count.
        dilation = math.prod(equation.params["lhs_dilation"])
        each = math.prod(kernel) / outputs / dilation
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * each
    if name == "while" and _inner(equation):
        inner = sum(_count(jaxpr) for jaxpr in _inner(equation))
        if inner:
            raise InputError("FLOPs of a loop without a fixed number of rounds cannot be counted.")
        return 0.0
    if name == "pallas_call":
        raise InputError("a Pallas kernel's FLOPs cannot be counted; set attention to 'xla'.")
    counts = [_count(jaxpr) for jaxpr in _inner(equation)]
    if name == "cond":
        return max(counts, default=0.0)
    rounds = equation.params["length"] if name == "scan" else 1
    return float(rounds * sum(counts))


def _inner(equation: Any) -> list[core.Jaxpr]:
    """The programs inside an equation (of a loop, a call, a recomputation)."""
    found = []
    for name, value in equation.params.items():
        # A custom derivative's rules are not what the forward pass runs.
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue
        for item in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(item, "jaxpr", item)
            if isinstance(jaxpr, core.Jaxpr):
                found.append(jaxpr)
    return found
