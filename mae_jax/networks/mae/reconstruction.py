"""Pictures of what a masked autoencoder sees, predicts and should have predicted (Figure 2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from mae_jax.config import nearest
from mae_jax.errors import InputError
from mae_jax.networks.mae.model import MAE
from mae_jax.nn.masking import take_tokens
from mae_jax.nn.patches import unpatchify


class Reconstruction(NamedTuple):
    """Standardized images, all of the same shape.

    Attributes:
      masked: the original with 0 (the channel's mean) where patches were masked.
      reconstruction: the prediction where patches were masked, the original elsewhere.
      original: the input.
      prediction: the prediction of every patch, seen or not.
      mask: 1 where a pixel was masked.
    """

    masked: Float[Array, "batch channels height width"]
    reconstruction: Float[Array, "batch channels height width"]
    original: Float[Array, "batch channels height width"]
    prediction: Float[Array, "batch channels height width"]
    mask: Float[Array, "batch channels height width"]


def reconstruct(
    model: MAE,
    params: PyTree,
    images: Float[Array, "batch channels height width"],
    *,
    channels: Sequence[str] | None = None,
    rng: jax.Array | None = None,
    noise: Float[Array, "batch tokens"] | Float[np.ndarray, "batch tokens"] | None = None,
    mask_ratio: float | None = None,
    keep_mask: Bool[Array, "batch tokens"] | Bool[np.ndarray, "batch tokens"] | None = None,
) -> Reconstruction:
    """Masks and reconstructs standardized images by `keep_mask`, `noise` or `rng`.

    A model trained on targets normalized per patch (`norm_pix`) predicts those; its prediction is
    brought back with the true mean and deviation of each patch.

    Raises:
      InputError: none of `rng`, `noise` and `keep_mask` is given, or an argument does not fit.
    """
    if rng is None and noise is None and keep_mask is None:
        raise InputError("reconstruct needs rng, noise or keep_mask to know what to mask.")
    output: Any = model.apply(
        {"params": params},
        images,
        channels=None if channels is None else tuple(channels),
        noise=noise,
        mask_ratio=mask_ratio,
        keep_mask=keep_mask,
        predict="all",
        rngs=None if rng is None else {"mask": rng},
    )
    config = model.config
    prediction = output.prediction
    if config.norm_pix:
        mean = output.target.mean(axis=-1, keepdims=True)
        variance = output.target.var(axis=-1, ddof=1, keepdims=True)
        prediction = prediction * jnp.sqrt(variance + 1e-6) + mean
    prediction = take_tokens(prediction, jnp.argsort(output.patch_ids, axis=1))

    def to_image(patches: jax.Array) -> jax.Array:
        return unpatchify(
            patches,
            config.encoder.patch,
            channels=images.shape[1],
            height=images.shape[2],
            width=images.shape[3],
            channel_agnostic=config.encoder.channel_agnostic,
        )

    pixels = output.prediction.shape[-1]
    mask = to_image(jnp.repeat(output.mask[..., None], pixels, axis=-1))
    predicted = to_image(prediction)
    return Reconstruction(
        masked=images * (1 - mask),
        reconstruction=jnp.where(mask > 0, predicted, images),
        original=images,
        prediction=predicted,
        mask=mask,
    )


def predict_channels(
    model: MAE,
    params: PyTree,
    images: Float[Array, "batch given height width"],
    *,
    given: Sequence[str],
    missing: Sequence[str] | None = None,
) -> Float[Array, "batch missing height width"]:
    """Predicts stains that were not imaged from those that were, all of whose patches are seen.

    Args:
      model: a channel-agnostic masked autoencoder.
      images: self-standardized images of the channels `given`, in that order.
      missing: the channels to predict; None means all of the model's that are not given.

    Returns:
      The missing channels in standardized units, in the order of `missing`.

    Raises:
      InputError: a joint model, a channel unknown to the model, or none to predict.
    """
    config = model.config.encoder
    if not config.channel_agnostic:
        raise InputError("only a channel-agnostic model can predict whole channels.")
    given = tuple(given)
    if missing is None:
        missing = [name for name in config.channels if name not in given]
    missing = tuple(missing)
    for name in given + missing:
        if name not in config.channels:
            raise InputError(
                f"this model knows no channel '{name}': {nearest(name, config.channels)}"
            )
    if not missing or not given or set(given) & set(missing):
        raise InputError(
            f"given channels ({', '.join(given)}) and missing ones ({', '.join(missing)}) must "
            "both be named and differ."
        )
    batch, _, height, width = images.shape
    filled = jnp.concatenate([images, jnp.zeros((batch, len(missing), height, width))], axis=1)
    tokens = (height // config.patch) * (width // config.patch)
    keep = np.repeat([[True] * len(given) + [False] * len(missing)], batch, axis=0)
    result = reconstruct(
        model, params, filled, channels=given + missing, keep_mask=np.repeat(keep, tokens, axis=1)
    )
    return result.prediction[:, len(given) :]
