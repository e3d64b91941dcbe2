"""`load_encoder`: an encoder from its name, a saved model, or a file of weights."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from mae_jax.config import nearest
from mae_jax.config_keys import has_key, with_key
from mae_jax.encoders.baselines import IntensityEncoder, RandomEncoder
from mae_jax.encoders.known_models import KNOWN_MODELS, KnownModel, known_model
from mae_jax.encoders.pretrained import from_pretrained
from mae_jax.encoders.published import published_model
from mae_jax.errors import InputError
from mae_jax.networks.compute_options import Dtype
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.registry import make_encoder
from mae_jax.networks.saved_model import PretrainedModel
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.recipe import Recipe

# Baselines that need no weights, by name.
BASELINES: dict[str, Callable[[], Encoder]] = {
    "intensity": IntensityEncoder,
    "random": RandomEncoder,
}


def load_encoder(
    path: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    bias_layout: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
) -> Encoder:
    """Load a published encoder, a saved model, a run's checkpoint, PyTorch weights, or a baseline.

    Args:
      path: the name of a published encoder ("openphenom", "morphem", "dinov2-s", …; `mae-jax
        models`), a baseline's name ("intensity", "random"), the folder of a saved model, a
        training's work folder, one of its checkpoints ("runs/x@12000", "runs/x@best"), or anything
        else that `from_pretrained` reads.
      recipe: how a published encoder is used: "own" (the default) or "jump-lite"; for a file of its
        weights "morphem/jump-lite".
      dtype: compute type of matrix products, "bfloat16" or "float32"; None for the model's own.
        Weights, norms, softmax and embeddings stay float32.
      revision: a branch, tag or commit on the hub.
      channels, bias_layout, heads, decoder_heads, norm_eps: properties of PyTorch weights (see
        `from_pretrained`).

    Raises:
      InputError: nothing of that name exists, its files do not fit together or are damaged, it
        has no compute type `dtype` or no such recipe, or its channels have no names and none are
        given.
    """
    name = str(path)
    if dtype is not None and dtype not in get_args(Dtype):
        raise InputError(f"dtype cannot be '{dtype}': {nearest(dtype, get_args(Dtype))}")
    if name in BASELINES:
        for option, value in (("dtype", dtype), ("recipe", recipe)):
            if value is not None:
                word = "compute type" if option == "dtype" else "recipe"
                raise InputError(f"the baseline '{name}' has no {word}; omit {option}.")
        return BASELINES[name]()
    known, chosen = find_recipe(name, recipe)
    model = read_model(
        path,
        recipe=recipe,
        revision=revision,
        channels=channels,
        bias_layout=bias_layout,
        heads=heads,
        decoder_heads=decoder_heads,
        norm_eps=norm_eps,
    )
    config, params, preprocessing = model
    ImportOptions.check_named(preprocessing.channels, name)
    if dtype is not None:
        if not has_key(config, "dtype"):
            raise InputError(f"{path} has no compute type; omit dtype.")
        config = with_key(config, "dtype", dtype)
    encoder = make_encoder(config, params, preprocessing)
    if known is not None:
        encoder.name, encoder.recipe = known.name, chosen
    return encoder


def read_model(
    path: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    **options: Any,
) -> PretrainedModel:
    """Read a published encoder by name or file, or anything that `from_pretrained` reads.

    Args:
      path, recipe, revision, channels: as of `load_encoder`.
      options: further properties of PyTorch weights (`from_pretrained`).

    Raises:
      InputError: as `load_encoder`.
    """
    known, chosen = find_recipe(str(path), recipe)
    if known is None or chosen is None:
        return from_pretrained(path, revision=revision, channels=channels, **options)
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{known.name} has its own {given[0]}; omit {given[0]}.")
    is_name = str(path) == known.name and not Path(path).exists()
    return published_model(known, chosen, None if is_name else path, revision, channels)


def find_recipe(path: str, recipe: str | None) -> tuple[KnownModel | None, Recipe | None]:
    """The published encoder and recipe that a path and a recipe's name mean; None for others.

    Raises:
      InputError: nothing has that name, or it is not said whose recipe it is.
    """
    if not Path(path).exists() and not re.search("[/@]", path):
        if path not in KNOWN_MODELS:
            raise InputError(
                f"no encoder is called '{path}' and no such folder exists: "
                f"{nearest(path, [*BASELINES, *KNOWN_MODELS])}"
            )
        known = known_model(path)
        return known, known.recipe(None if recipe is None else recipe.removeprefix(f"{path}/"))
    if recipe is None:
        return None, None
    model, slash, name = recipe.partition("/")
    if not slash:
        raise InputError(
            f"whose recipe is '{recipe}' for {path}? Write MODEL/RECIPE, such as "
            f"morphem/{recipe}; `mae-jax models` lists them."
        )
    known = known_model(model)
    return known, known.recipe(name)
