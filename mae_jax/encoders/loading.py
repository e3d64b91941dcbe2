"""`load_encoder`: an encoder from a saved model or a baseline's name."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from mae_jax.config import nearest
from mae_jax.config_keys import has_key, with_key
from mae_jax.encoders.baselines import IntensityEncoder, RandomEncoder
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.errors import InputError
from mae_jax.networks.compute_options import Dtype
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.registry import make_encoder
from mae_jax.weights.import_options import ImportOptions

# Baselines that need no weights, by name.
BASELINES: dict[str, Callable[[], Encoder]] = {
    "intensity": IntensityEncoder,
    "random": RandomEncoder,
}


def load_encoder(
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    bias_layout: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
) -> Encoder:
    """Load the encoder of a saved model, a run's checkpoint, PyTorch weights, or a baseline.

    Args:
      path: a baseline's name ("intensity", "random"), the folder of a saved model, a training's
        work folder, one of its checkpoints ("runs/x@12000", "runs/x@best"), or anything else that
        `from_pretrained` reads.
      dtype: compute type of matrix products, "bfloat16" or "float32"; None for the model's own.
        Weights, norms, softmax and embeddings stay float32.
      revision: a branch, tag or commit on the hub.
      channels, bias_layout, heads, decoder_heads, norm_eps: properties of PyTorch weights (see
        `from_pretrained`).

    Raises:
      InputError: nothing of that name exists, its files do not fit together or are damaged, it
        has no compute type `dtype`, or its channels have no names and none are given.
    """
    if dtype is not None and dtype not in get_args(Dtype):
        raise InputError(f"dtype cannot be '{dtype}': {nearest(dtype, get_args(Dtype))}")
    if str(path) in BASELINES:
        if dtype is not None:
            raise InputError(f"the baseline '{path}' has no compute type; omit dtype.")
        return BASELINES[str(path)]()
    if not Path(path).exists() and not re.search("[/@]", str(path)):
        raise InputError(
            f"no encoder is called '{path}' and no such folder exists: "
            f"{nearest(str(path), list(BASELINES))}"
        )
    model = from_pretrained(
        path,
        revision=revision,
        channels=channels,
        bias_layout=bias_layout,
        heads=heads,
        decoder_heads=decoder_heads,
        norm_eps=norm_eps,
    )
    config, params, preprocessing = model
    ImportOptions.check_named(preprocessing.channels, str(path))
    if dtype is not None:
        if not has_key(config, "dtype"):
            raise InputError(f"{path} has no compute type; omit dtype.")
        config = with_key(config, "dtype", dtype)
    return make_encoder(config, params, preprocessing)
