"""Reconstruction losses: Equations 1, 2 and 3, in float32 whatever the model's type."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from mae_jax.errors import InputError
from mae_jax.networks.mae.config import MAEConfig
from mae_jax.networks.mae.model import MAEOutput


def mae_loss(
    output: MAEOutput, config: MAEConfig, *, masked: bool = True
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """(1 - α) L_MAE + α L_FT (Equation 3), and the two parts by the names "mae" and "fourier".

    Args:
      output: of a masked autoencoder.
      masked: average over the masked patches, 0 where there are none; False averages over every
        patch, for which `output` must hold all of them (`predict="all"`).

    Raises:
      InputError: `masked` is False but only masked patches were predicted.
    """
    prediction = output.prediction.astype(jnp.float32)
    target = jax.lax.stop_gradient(output.target.astype(jnp.float32))
    if config.norm_pix:
        target = normalize_patches(target)
    weight = output.loss_mask
    if not masked:
        if weight.shape != output.mask.shape:
            raise InputError(
                "an unmasked loss needs every patch: call the model with predict='all'."
            )
        weight = jnp.ones_like(weight)
    channels = 1 if config.encoder.channel_agnostic else len(config.encoder.channels)
    mae = weighted_mean(squared_error(prediction, target), weight)
    alpha = config.fourier_weight
    seen = prediction if alpha else jax.lax.stop_gradient(prediction)
    fourier = fourier_scale(config) * weighted_mean(
        fourier_error(seen, target, patch=config.encoder.patch, channels=channels), weight
    )
    loss = (1 - alpha) * mae + alpha * fourier if alpha else mae
    return loss, {"mae": mae, "fourier": fourier}


def fourier_scale(config: MAEConfig) -> float:
    """The factor of Equation 2's loss: 1, or that of the released code (`MAEConfig`)."""
    encoder = config.encoder
    return encoder.crop / encoder.patch**2 if config.fourier_scale == "released" else 1.0


def squared_error(
    prediction: Float[Array, "*patches pixels"], target: Float[Array, "*patches pixels"]
) -> Float[Array, "*patches"]:
    """Equation 1's L2 of each patch: the mean over its pixels of the squared difference."""
    return jnp.square(prediction - target).mean(axis=-1)


def fourier_error(
    prediction: Float[Array, "*patches pixels"],
    target: Float[Array, "*patches pixels"],
    *,
    patch: int,
    channels: int = 1,
) -> Float[Array, "*patches"]:
    """Equation 2's L1 of each patch: |FFT| of every channel compared, mean over bins and channels.

    The spectrum of a real patch is symmetric, so the half of `rfft2` is computed and its inner
    columns count twice: equal to the mean over all patch² bins.
    """
    half = _half_weights(patch)

    def magnitude(x: jax.Array) -> jax.Array:
        x = _in_order(rearrange(x, "... (p q c) -> ... c p q", p=patch, q=patch, c=channels))
        return jnp.abs(jnp.fft.rfft2(x, axes=(-2, -1)))

    difference = jnp.abs(magnitude(prediction) - magnitude(target))
    return (difference * half).sum(axis=(-2, -1)).mean(axis=-1) / patch**2


def _in_order(x: jax.Array) -> jax.Array:
    """`x`, with its last axis the closest in memory, as XLA's FFT on CPUs takes it for granted."""
    layout = Layout(major_to_minor=tuple(range(x.ndim)))
    return jax.lax.platform_dependent(
        x, cpu=lambda x: with_layout_constraint(x, layout), default=lambda x: x
    )


def normalize_patches(patches: Float[Array, "*patches pixels"]) -> Float[Array, "*patches pixels"]:
    """Every patch minus its mean, over sqrt(unbiased variance + 1e-6) (He et al., norm_pix)."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, ddof=1, keepdims=True)
    return (patches - mean) * jax.lax.rsqrt(variance + 1e-6)


def weighted_mean(
    values: Float[Array, "*patches"], weight: Float[Array, "*patches"]
) -> Float[Array, ""]:
    """Mean of the values of weight 1; 0 where every weight is 0."""
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def _half_weights(patch: int) -> Float[np.ndarray, " columns"]:
    """How often each column of rfft2 occurs in the whole spectrum."""
    weights = np.full(patch // 2 + 1, 2.0, np.float32)
    weights[0] = 1
    if patch % 2 == 0:
        weights[-1] = 1
    return weights
