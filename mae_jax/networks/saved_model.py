"""A saved model: a folder with `config.json` and `model.safetensors`."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax

from mae_jax._version import __version__
from mae_jax.config import from_dict, to_dict
from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json, write_text
from mae_jax.networks.registry import from_json, of_config, param_shapes, to_json
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.pytree_paths import (
    check_finite,
    check_keys,
    flatten,
    flatten_leaves,
    unflatten,
)
from mae_jax.weights.safetensors_file import (
    SafetensorsHeader,
    first_line,
    read_header,
    read_safetensors,
    write_safetensors,
)

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
# Markdown beside them: what the model is, and how well it does.
MODEL_CARD, RESULTS_CARD = "README.md", "RESULTS.md"


class PretrainedModel(NamedTuple):
    """A model that was read: unpacks as (config, params, preprocessing).

    Attributes:
      config: the architecture, such as `MAEConfig`.
      params: nested dicts of arrays, as the network takes them.
      preprocessing: how raw pixels are prepared.
    """

    config: Any
    params: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def num_params(self) -> int:
        """The number of parameters."""
        return sum(value.size for value in flatten(self.params).values())

    def __repr__(self) -> str:
        channels = ", ".join(self.preprocessing.channels)
        return (
            f"PretrainedModel({of_config(self.config).name}, {self.num_params:,} parameters, "
            f"channels=({channels}), crop={self.preprocessing.crop}, "
            f"scale={self.preprocessing.scale})"
        )


def save_model(
    folder: str | os.PathLike[str],
    params: Mapping[str, Any],
    model_config: Any,
    preprocessing: Preprocessing,
    documents: Mapping[str, str] | None = None,
) -> Path:
    """Write the folder, whole or not at all, with SHA-256 hashes of both files' contents.

    Args:
      params: nested dicts of arrays, as the network takes them (sharded ones are gathered).
      model_config: `MAEConfig` or another architecture of the registry.
      preprocessing: how raw pixels are prepared.
      documents: further text files of the folder by name, such as `MODEL_CARD`.

    Raises:
      InputError: parameters that do not fit the architecture, or are not finite.
    """
    flat = flatten(jax.device_get(params))
    source = f"{folder}: the model to save"
    check_keys(flat, flatten_leaves(param_shapes(model_config)), source)
    check_finite(flat, source)
    record = to_json(model_config) | {
        "preprocessing": to_dict(preprocessing),
        "versions": {
            "mae_jax": __version__,
            "jax": jax.__version__,
            "flax": flax.__version__,
        },
    }
    with replacing(folder) as tmp_path:
        tmp_path.mkdir()
        write_safetensors(tmp_path / WEIGHTS, flat)
        weights_hash = file_sha256(tmp_path / WEIGHTS)
        record["sha256"] = {WEIGHTS: weights_hash, CONFIG: _record_sha256(record)}
        write_json(tmp_path / CONFIG, record)
        for name, text in (documents or {}).items():
            write_text(tmp_path / name, text)
    return Path(folder)


def load_model(folder: str | os.PathLike[str]) -> PretrainedModel:
    """Read a saved model.

    The hashes of both files are compared with those in `config.json`; models that were saved
    before hashes were recorded load without.

    Raises:
      InputError: a missing, damaged or changed file, keys that do not fit the architecture (all
        listed), or weights that are not finite.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of a saved model; check the path.")
    path, weights = folder / CONFIG, folder / WEIGHTS
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError(f"{path} is not a table of keys; save the model again.")
    config = from_json(record, str(path))
    if "preprocessing" not in record:
        raise InputError(f"{path} has no 'preprocessing'; save the model again.")
    preprocessing = from_dict(Preprocessing, record["preprocessing"], f"{path}: preprocessing")
    _check_hashes(record, path, weights)
    shapes = shapes_of(config, path, read_header(weights), weights)
    flat = read_safetensors(weights)
    check_keys(flat, shapes, str(weights))
    check_finite(flat, str(weights))
    return PretrainedModel(config, unflatten(flat), preprocessing)


def shapes_of(
    config: Any, config_path: Path, header: SafetensorsHeader, weights: Path
) -> dict[str, Any]:
    """Return the flat shapes of an architecture, if its sizes can be those of a weights file.

    The sizes are compared with the file's header first, since shaping a network of a million
    blocks, as a damaged `config.json` may describe, would not end.

    Raises:
      InputError: the architecture has more blocks or larger dimensions than the file.
    """
    largest = max([n for info in header.tensors.values() for n in info.shape], default=0)
    for name, value in _sizes(to_dict(config)):
        is_depth = name.rsplit(".", 1)[-1] in ("depth", "layers", "convolutions")
        limit = len(header.tensors) if is_depth else max(largest, 8192)
        if abs(value) > limit:
            raise InputError(
                f"{config_path}: architecture.{name} is {value}, which does not fit {weights}; "
                "restore both files from one copy."
            )
    try:
        return flatten_leaves(param_shapes(config))
    except InputError:
        raise
    except Exception as problem:  # values that no network can have fail in many ways
        raise InputError(
            f"{config_path} does not describe a network ({first_line(problem)}); "
            "restore it from a copy."
        ) from None


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's contents in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hashes(record: Mapping[str, Any], path: Path, weights: Path) -> None:
    hashes = record.get("sha256")
    if hashes is None:  # saved before hashes were recorded
        return
    if not isinstance(hashes, Mapping) or not {CONFIG, WEIGHTS} <= hashes.keys():
        raise InputError(f"{path} has no hash of {WEIGHTS}; restore it from a copy.")
    if hashes[CONFIG] != _record_sha256(record):
        raise InputError(
            f"{path} was damaged or changed after the model was saved; restore it from a copy, "
            "or remove its key 'sha256' if you changed it."
        )
    read_header(weights)  # names a missing or truncated file first
    if hashes[WEIGHTS] != file_sha256(weights):
        raise InputError(
            f"{weights} is damaged: its SHA-256 differs from the one in {CONFIG}; restore it from "
            "a copy."
        )


def _record_sha256(record: Mapping[str, Any]) -> str:
    """Hash everything in `config.json` but the hashes."""
    values = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _sizes(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield every integer of a nested config with its dotted name, and the length of lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _sizes(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        yield name, len(value)
        for item in value:
            yield from _sizes(item, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value
