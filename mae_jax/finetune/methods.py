"""What each method of fine-tuning trains, and how it predicts."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from mae_jax.encoders import Encoder
from mae_jax.errors import InputError
from mae_jax.finetune.config import RATES, WEIGHT_DECAY, FineTuneConfig
from mae_jax.finetune.lora import lora_init, lora_merge
from mae_jax.finetune.optimizers import dotted_names, layer_decay
from mae_jax.finetune.probes import AttentiveProbe
from mae_jax.networks.registry import make_encoder

LORA_SCALE = 2.0
Head = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A method of fine-tuning, ready to train.

    Attributes:
      params: what is trained.
      frozen: what is not, passed beside it so that it is no constant of the compiled step.
      outputs: (params, frozen, inputs) -> outputs; inputs are raw crops.
      encoder_params: (params, frozen) -> the parameters of the encoder.
    """

    params: PyTree
    frozen: PyTree
    outputs: Callable[[PyTree, PyTree, Array], Float[Array, "batch outputs"]]
    encoder_params: Callable[[PyTree, PyTree], PyTree]


def linear_outputs(
    head: Head, features: Float[Array, "batch dim"]
) -> Float[Array, "batch outputs"]:
    """A linear layer; while it is trained, on features that are centred and scaled.

    It is affine: the output of a mean embedding is the mean of the crops' outputs.
    """
    features = features.astype(jnp.float32)
    if "mean" in head:
        fixed = jax.lax.stop_gradient((head["mean"], head["scale"]))
        features = (features - fixed[0]) / fixed[1]
    return features @ head["kernel"] + head["bias"]


def one_layer(head: Head) -> Head:
    """The head with its centring and scaling folded into the weights: (x - m) / s W + b."""
    if "mean" not in head:
        return head
    kernel = np.asarray(head["kernel"], np.float64) / np.asarray(head["scale"])[:, None]
    bias = head["bias"] - np.asarray(head["mean"], np.float64) @ kernel
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}


def attentive_probe(outputs: int, dim: int) -> AttentiveProbe:
    """The attentive probe for tokens of `dim` features."""
    return AttentiveProbe(outputs, heads=next(n for n in (4, 2, 1) if dim % n == 0))


def predict_outputs(
    encoder: Encoder, method: str, pooling: str, outputs: int
) -> Callable[[Head, PyTree, Array], Float[Array, "batch outputs"]]:
    """(head, parameters of the encoder, raw crops) -> outputs; pure.

    Raises:
      InputError: the encoder has no tokens for the attentive probe.
    """
    if method != "attentive":
        return lambda head, params, pixels: linear_outputs(
            head, encoder.forward(params, pixels, pooling=pooling)
        )
    tokens: Any = getattr(encoder, "tokens", None)
    if tokens is None:
        raise InputError(
            f"the encoder '{encoder.name}' has no tokens for the attentive probe; give --method "
            "linear."
        )

    def attentive(head: Head, params: PyTree, pixels: Array) -> Float[Array, "batch outputs"]:
        features = tokens(params, pixels)
        probe = attentive_probe(outputs, features.shape[-1])
        result: Any = probe.apply({"params": head}, features)
        return result

    return attentive


def attentive_method(encoder: Encoder, outputs: int, example: Array, key: PRNGKeyArray) -> Method:
    """The attentive probe on tokens of the frozen encoder."""
    predict = predict_outputs(encoder, "attentive", "mean", outputs)
    tokens: Any = encoder
    shape = jax.eval_shape(tokens.tokens, encoder.params, example).shape
    probe = attentive_probe(outputs, shape[-1])
    head = probe.init(key, jnp.zeros((1, *shape[1:])))["params"]
    return Method(
        {"head": head},
        {"encoder": encoder.params},
        lambda params, frozen, pixels: predict(params["head"], frozen["encoder"], pixels),
        lambda params, frozen: frozen["encoder"],
    )


def lora_method(encoder: Encoder, head: Head, pooling: str, rank: int, key: PRNGKeyArray) -> Method:
    """Low-rank updates of the encoder's matrices, from the linear probe on."""
    predict = predict_outputs(encoder, "lora", pooling, head["bias"].shape[0])

    def merged(params: PyTree, frozen: PyTree) -> PyTree:
        return lora_merge(frozen["encoder"], params["lora"], scale=LORA_SCALE)

    return Method(
        {"lora": lora_init(key, encoder.params, rank=rank), "head": head},
        {"encoder": encoder.params},
        lambda params, frozen, pixels: predict(params["head"], merged(params, frozen), pixels),
        merged,
    )


def full_method(encoder: Encoder, head: Head, pooling: str) -> Method:
    """All parameters, from the linear probe on."""
    predict = predict_outputs(encoder, "full", pooling, head["bias"].shape[0])
    return Method(
        {"encoder": encoder.params, "head": head},
        {},
        lambda params, frozen, pixels: predict(params["head"], params["encoder"], pixels),
        lambda params, frozen: params["encoder"],
    )


def fine_tuning_optimizer(
    method: str, config: FineTuneConfig, params: PyTree
) -> optax.GradientTransformation:
    """AdamW with a short warm-up and a cosine; full fine-tuning decays the rate layer by layer."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.lr or RATES[method], max(1, config.steps // 20), max(config.steps, 2)
    )

    def decays(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda value: jnp.ndim(value) == 2, tree)

    decay = WEIGHT_DECAY if config.weight_decay is None else config.weight_decay
    adamw = optax.adamw(rate, weight_decay=decay, mask=decays)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), adamw)
    if method != "full":
        return clipped
    names = jax.tree.leaves(dotted_names(params))
    blocks = [int(m[1]) for name in names if (m := re.search(r"(?:^|\.)block_(\d+)\.", name))]
    return layer_decay(clipped, params, decay=config.layer_decay, depth=max(blocks, default=-1) + 1)


def tuned_encoder(encoder: Encoder, params: PyTree) -> Encoder:
    """The encoder with other parameters; a baseline, which has none, is returned as it is."""
    if not encoder.params:
        return encoder
    return make_encoder(encoder_config(encoder), params, encoder.preprocessing)


def encoder_config(encoder: Any) -> Any:
    """The config of the encoder alone, without a decoder."""
    return getattr(encoder, "encoder_config", None) or encoder.config
