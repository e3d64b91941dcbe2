"""The masked autoencoder, compiled once for each size and list of channels."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.networks.mae.model import MAE
from mae_jax.networks.mae.reconstruction import Reconstruction, predict_channels, reconstruct
from mae_jax.weights.preprocessing import Preprocessing


def reconstruct_crops(
    encoder: Any,
    pixels: Shaped[np.ndarray, "batch channels height width"],
    channels: Sequence[str],
    mask_ratio: float | None = None,
    seed: int = 0,
) -> Reconstruction:
    """Raw crops, masked at random and reconstructed, in standardised units.

    Args:
      encoder: a masked autoencoder with its decoder (`MAEEncoder`).
      pixels: raw crops.
      channels: the names of their channels.
      mask_ratio: the share of patches to hide; None for that of training.
      seed: of the masks.

    Raises:
      InputError: channels or sizes that do not fit the network.
    """
    run = _reconstruct(MAE(encoder.config), tuple(channels), mask_ratio, encoder.preprocessing)
    return run(encoder.mae_params, pixels, jax.random.key(seed))


def predict_missing_channels(
    encoder: Any,
    pixels: Shaped[np.ndarray, "batch given height width"],
    given: Sequence[str],
    missing: Sequence[str],
) -> Float[np.ndarray, "batch missing height width"]:
    """Stains predicted from raw crops of others, in standardised units.

    Args:
      encoder: a channel-agnostic masked autoencoder with its decoder.
      pixels: raw crops.
      given: the names of their channels.
      missing: the channels to predict.

    Raises:
      InputError: a joint network, or a channel that it does not know.
    """
    run = _predict(MAE(encoder.config), tuple(given), tuple(missing), encoder.preprocessing)
    return np.asarray(run(encoder.mae_params, pixels))


# Jitted functions are kept by what is static, parameters are arguments: constants of a program
# would be folded and kept again for each size.
_kept: dict[Any, Any] = {}


def _reconstruct(
    model: MAE, channels: tuple[str, ...], ratio: float | None, preprocessing: Preprocessing
) -> Any:
    def run(params: Any, pixels: Any, key: Any) -> Reconstruction:
        images = preprocessing.standardize(pixels)
        return reconstruct(model, params, images, channels=channels, rng=key, mask_ratio=ratio)

    return _kept.setdefault(("mask", model.config, channels, ratio, preprocessing), jax.jit(run))


def _predict(
    model: MAE, given: tuple[str, ...], missing: tuple[str, ...], preprocessing: Preprocessing
) -> Any:
    def run(params: Any, pixels: Any) -> Any:
        images = preprocessing.standardize(pixels)
        return predict_channels(model, params, images, given=given, missing=missing)

    return _kept.setdefault(("predict", model.config, given, missing, preprocessing), jax.jit(run))
