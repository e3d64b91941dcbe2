"""`load_encoder`: an encoder from a saved model or a baseline's name."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from mae_jax.config import nearest
from mae_jax.encoders.baselines import IntensityEncoder, RandomEncoder
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.densenet.model import DenseNetConfig
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.mae.config import Dtype, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.other_encoders import DenseNetEncoder, MUNetEncoder, ViTEncoder
from mae_jax.networks.unet.model import UNetConfig
from mae_jax.networks.vit.model import ViTConfig

# Baselines that need no weights, by name.
BASELINES: dict[str, Callable[[], Encoder]] = {
    "intensity": IntensityEncoder,
    "random": RandomEncoder,
}


def load_encoder(
    where: str | os.PathLike[str],
    *,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    bias_layout: str = "legacy",
    dtype: str | None = None,
) -> Encoder:
    """The encoder of a saved model or a baseline.

    Args:
      where: a baseline's name, the folder of a saved model, a training's work folder, or
        anything else that `from_pretrained` reads.
      revision: of a model on the hub.
      channels: names of a foreign model's channels; RGB models are adapted to so many.
      bias_layout: of a foreign masked autoencoder.
      dtype: "bfloat16" or "float32", what matrix products are computed in; None for what the
        model says. Weights stay float32, and so do norms, softmax and what they return.

    Raises:
      InputError: nothing of that name exists, its files do not fit together, or it computes
        nothing in `dtype`.
    """
    if dtype is not None and dtype not in get_args(Dtype):
        raise InputError(
            f"there is no type '{dtype}' to compute in: {nearest(dtype, get_args(Dtype))}"
        )
    if str(where) in BASELINES:
        if dtype is not None:
            raise InputError(f"the baseline '{where}' has one type to compute in; name no other.")
        return BASELINES[str(where)]()
    if not Path(where).exists() and "/" not in str(where):
        raise InputError(
            f"no encoder is called '{where}' and no such folder exists: "
            f"{nearest(str(where), list(BASELINES))}"
        )
    config, params, preprocessing = from_pretrained(
        where, revision=revision, channels=channels, bias_layout=bias_layout
    )
    if dtype is not None:
        config = _computing_in(dtype, config)
    if isinstance(config, MAEConfig | ParallelViTConfig):
        return MAEEncoder(config, params, preprocessing)
    networks = {
        ViTConfig: ViTEncoder,
        DenseNetConfig: DenseNetEncoder,
        UNetConfig: MUNetEncoder,
    }
    return networks[type(config)](config, params, preprocessing)


def _computing_in(dtype: str, config: Any) -> Any:
    if isinstance(config, MAEConfig):
        return dataclasses.replace(config, encoder=_computing_in(dtype, config.encoder))
    return dataclasses.replace(config, dtype=dtype)
