"""Reconstruct masked crops and predict missing channels with a masked autoencoder."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.reconstruction import Reconstruction, predict_channels, reconstruct


def reconstruct_crops(
    encoder: Any,
    pixels: Shaped[np.ndarray, "batch channels height width"],
    channels: Sequence[str],
    mask_ratio: float | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Mask raw crops at random and reconstruct them, in standardized units.

    Args:
      encoder: a masked autoencoder with its decoder (`MAEEncoder`).
      pixels: raw crops.
      channels: the names of their channels.
      mask_ratio: fraction of patches to mask; None for that of training.
      seed: random seed of the masks.

    Raises:
      InputError: channels or sizes that do not fit the network.
    """
    model, preprocessing, names = MAE(encoder.config), encoder.preprocessing, tuple(channels)

    # Parameters are arguments: constants of a program would be folded and kept for each size.
    def run(params: Any, pixels: Any, key: Any) -> Reconstruction:
        images = preprocessing.standardize(pixels)
        return reconstruct(model, params, images, channels=names, rng=key, mask_ratio=mask_ratio)

    compiled = encoder.compiled.get(("reconstruct", names, mask_ratio), lambda: jax.jit(run))
    return compiled(encoder.mae_params, pixels, jax.random.key(seed))


def predict_missing_channels(
    encoder: Any,
    pixels: Shaped[np.ndarray, "batch given height width"],
    given: Sequence[str],
    missing: Sequence[str],
) -> Float[np.ndarray, "batch missing height width"]:
    """Predict channels from raw crops of other channels, in standardized units.

    Args:
      encoder: a channel-agnostic masked autoencoder with its decoder.
      pixels: raw crops.
      given: the names of their channels.
      missing: the channels to predict.

    Raises:
      InputError: a joint network, or a channel that it does not know.
    """
    model, preprocessing = MAE(encoder.config), encoder.preprocessing
    given, missing = tuple(given), tuple(missing)

    def run(params: Any, pixels: Any) -> Any:
        images = preprocessing.standardize(pixels)
        return predict_channels(model, params, images, given=given, missing=missing)

    compiled = encoder.compiled.get(("predict channels", given, missing), lambda: jax.jit(run))
    return np.asarray(compiled(encoder.mae_params, pixels))
