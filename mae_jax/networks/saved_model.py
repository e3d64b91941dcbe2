"""A saved model: a folder with `config.json` and `model.safetensors`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import safetensors.numpy

from mae_jax import __version__
from mae_jax.config import from_dict, to_dict
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json
from mae_jax.networks.registry import from_record, param_shapes, to_record
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import check_keys, flatten, flatten_leaves, unflatten
from mae_jax.weights.safetensors_file import read_safetensors

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def save_model(
    folder: str | os.PathLike[str],
    params: Mapping[str, Any],
    model_config: Any,
    preprocessing: Preprocessing,
) -> Path:
    """Writes the folder, whole or not at all.

    Args:
      params: nested dicts of arrays, as the network takes them (sharded ones are gathered).
      model_config: `MAEConfig`, `EncoderConfig` or another architecture of `KINDS`.
      preprocessing: how raw pixels are prepared.

    Raises:
      InputError: parameters that do not fit the architecture.
    """
    flat = flatten(jax.device_get(params))
    check_keys(flat, flatten_leaves(param_shapes(model_config)), f"what is saved to {folder}")
    record = to_record(model_config) | {
        "preprocessing": to_dict(preprocessing),
        "versions": {
            "mae_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
    }
    with replacing(folder) as beside:
        beside.mkdir()
        write_json(beside / CONFIG, record)
        # safetensors writes buffers as they lie in memory: they must be contiguous.
        contiguous = {name: np.ascontiguousarray(value) for name, value in flat.items()}
        safetensors.numpy.save_file(contiguous, beside / WEIGHTS)
    return Path(folder)


def load_model(folder: str | os.PathLike[str]) -> tuple[Any, dict[str, Any], Preprocessing]:
    """Reads (model_config, params, preprocessing) of a saved model.

    Raises:
      InputError: a missing or broken file, or keys that do not fit the architecture (all listed).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of a saved model; check the path.")
    record = read_json(folder / CONFIG)
    where = str(folder / CONFIG)
    config = from_record(record, where)
    if "preprocessing" not in record:
        raise InputError(f"{where} has no 'preprocessing'; save the model anew.")
    preprocessing = from_dict(Preprocessing, record["preprocessing"], f"{where}: preprocessing")
    flat = read_safetensors(folder / WEIGHTS)
    check_keys(flat, flatten_leaves(param_shapes(config)), str(folder / WEIGHTS))
    return config, unflatten(flat), preprocessing
