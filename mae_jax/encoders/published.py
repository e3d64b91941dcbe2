"""The models of `known_models`, from the hub or from a file of their weights."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from mae_jax.encoders.hub import download_file
from mae_jax.encoders.known_models import KnownModel
from mae_jax.encoders.pretrained import from_pretrained, weights_in
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.registry import of_config
from mae_jax.networks.saved_model import CONFIG, PretrainedModel, load_model
from mae_jax.networks.torch_import import import_state_dict
from mae_jax.networks.vit.config import vit_config
from mae_jax.weights.recipe import Recipe
from mae_jax.weights.state_dict import read_state_dict


def published_model(
    known: KnownModel,
    recipe: Recipe,
    path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
) -> PretrainedModel:
    """A published encoder with the preprocessing of a recipe.

    Args:
      path: a file of its weights, a folder with one, or a model that `mae-jax convert` has saved of
        it; None to fetch it from the hub.
      revision: a branch, tag or commit on the hub.
      channels: names of the channels in the model's order, where they are not published.

    Raises:
      InputError: the hub cannot be reached or does not have it, the file is of another
        architecture, or names of its channels are needed.
    """
    file = _fetch(known, revision) if path is None else Path(path)
    if file.is_dir() and (file / CONFIG).is_file() and "kind" in read_json(file / CONFIG):
        config, params, saved = load_model(file)
        channels = channels or (saved.channels if known.channels is None else None)
    elif channels is None and known.channels is None:
        count = len(vit_config(known.architecture).channels)
        raise InputError(
            f"the order of the {count} channels of {known.name} is not published; ask those who "
            f"sent the weights, and give {count} names (`mae-jax convert {file} FOLDER --recipe "
            f"{known.name}/{recipe.name} --channels A,B,…`)."
        )
    else:
        config, params = _import(known, weights_in(file) if file.is_dir() else file)
    _check(known, config, str(file))
    preprocessing = recipe.preprocessing
    if channels is not None:
        preprocessing = dataclasses.replace(preprocessing, channels=channels)
        inputs = len(config.channels) if hasattr(config, "channels") else None
        joint = not preprocessing.bag_of_channels and not preprocessing.any_channels
        if joint and inputs is not None and len(channels) != inputs:
            raise InputError(
                f"{known.name} takes {inputs} channels, but {len(channels)} are named "
                f"({', '.join(channels)}); name each of them in the model's order."
            )
    return PretrainedModel(config, params, preprocessing)


def _fetch(known: KnownModel, revision: str | None) -> Path:
    if not known.hub:
        raise InputError(f"{known.name} is not on the hub: {known.how()}.")
    try:
        return download_file(known.hub, known.file, revision)
    except InputError as problem:
        reason = str(problem).rstrip(".").replace("is not a local path and ", "")
        raise InputError(f"{known.name}: {reason}; {known.how()}.") from None


def _import(known: KnownModel, file: Path) -> tuple[Any, dict[str, Any]]:
    if not known.architecture:
        model = from_pretrained(file, channels=known.channels)
        return model.config, model.params
    config = vit_config(known.architecture)
    return import_state_dict(read_state_dict(file), str(file), config=config)


def _check(known: KnownModel, config: Any, source: str) -> None:
    """Compare a saved model's network with the one that is asked for."""
    networks = ("vit",) if known.architecture else ("mae", "parallel_vit")
    network = of_config(config).name
    if network not in networks:
        raise InputError(
            f"{source} is of the network '{network}', but {known.name} of '{networks[0]}'; name "
            "another recipe."
        )
