"""State dicts of PyTorch implementations: recognized by their keys, imported and exported.

Exported files carry the architecture and the preprocessing in their metadata, since tensors do
not show all of it (bias layout, heads, epsilons, scale); imports read it from there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config import from_dict, to_dict
from mae_jax.errors import InputError
from mae_jax.files import read_json, write_json
from mae_jax.networks.registry import from_json, get, names, of_config, param_shapes, to_json
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.key_map import TorchFormat, export_tensors, import_tensors
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.safetensors_file import first_line
from mae_jax.weights.state_dict import write_state_dict

METADATA_KEY = "mae_jax"
# Published weights were trained on 8-bit images.
IMPORTED_SCALE = 255.0


def import_state_dict(
    tensors: Mapping[str, np.ndarray],
    source: str,
    options: ImportOptions | None = None,
    *,
    config: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Import a state dict in any known format.

    Args:
      source: the file of the state dict, for messages.
      options: properties that the tensors do not show.
      config: the architecture, if it is known (from a file's metadata).

    Returns:
      (config, params)

    Raises:
      InputError: an unknown format, a property that must be given, or keys that are missing,
        unexpected, mis-shaped (all listed) or not finite.
    """
    tensors = _without_prefix(tensors)
    try:
        if config is None:
            torch_format = _recognize(tensors, source)
            config = torch_format.infer_config(tensors, source, options or ImportOptions())
        else:
            torch_format = _format_of(config)
        adapted = torch_format.adapt(tensors, config)
    except InputError as problem:
        text = str(problem)
        raise InputError(text if text.startswith(source) else f"{source}: {text}") from None
    except Exception as problem:  # state dicts whose keys or shapes contradict each other
        raise InputError(
            f"{source} does not describe a network ({type(problem).__name__}: "
            f"{first_line(problem)}); save its state dict again."
        ) from None
    return config, import_tensors(
        adapted, torch_format.key_map(config), param_shapes(config), source
    )


def export_state_dict(params: Mapping[str, Any], config: Any) -> dict[str, np.ndarray]:
    """Convert parameters to the PyTorch state dict of their network.

    Raises:
      InputError: the network has no PyTorch format.
    """
    return export_tensors(params, _format_of(config).key_map(config))


def export_model(
    path: str | os.PathLike[str],
    params: Mapping[str, Any],
    config: Any,
    preprocessing: Preprocessing,
) -> int:
    """Write a model as a PyTorch state dict in a safetensors file, and `config.json` beside it.

    Returns:
      The number of tensors.

    Raises:
      InputError: the network has no PyTorch format, or another `config.json` is there.
    """
    path = Path(path)
    config_path = path.with_name("config.json")
    if config_path.exists() and METADATA_KEY not in read_json(config_path):
        raise InputError(f"{config_path} belongs to something else; export to another folder.")
    tensors, metadata = export_state_dict(params, config), to_metadata(config, preprocessing)
    write_state_dict(path, tensors, metadata)
    # `weights` names the file that the config belongs to.
    record = {"weights": path.name, METADATA_KEY: json.loads(metadata[METADATA_KEY])}
    write_json(config_path, record)
    return len(tensors)


def to_metadata(config: Any, preprocessing: Preprocessing) -> dict[str, str]:
    """Return the metadata of an exported file: architecture and preprocessing, as JSON."""
    record = to_json(config) | {"preprocessing": to_dict(preprocessing)}
    return {METADATA_KEY: json.dumps(record, sort_keys=True)}


def from_metadata(metadata: Mapping[str, str], source: str) -> tuple[Any, Preprocessing] | None:
    """Return (config, preprocessing) of an exported file; None for files of other origin.

    Raises:
      InputError: the metadata is damaged.
    """
    if METADATA_KEY not in metadata:
        return None
    try:
        record = json.loads(metadata[METADATA_KEY])
        preprocessing = record["preprocessing"]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise InputError(f"{source} has damaged metadata ({problem}); export it again.") from None
    config = from_json(record, f"{source}: metadata")
    return config, from_dict(Preprocessing, preprocessing, f"{source}: metadata.preprocessing")


def _recognize(tensors: Mapping[str, np.ndarray], source: str) -> TorchFormat:
    for torch_format in _formats():
        if torch_format.matches(tensors):
            return torch_format
    formats = ", ".join(dict.fromkeys(f.name for f in _formats()))
    first = ", ".join(list(tensors)[:3])
    raise InputError(
        f"{source} is in none of the known formats ({formats}); its first keys are {first}."
    )


def _formats() -> list[TorchFormat]:
    """The formats of all registered networks."""
    return [network.torch for network in map(get, names()) if network.torch is not None]


def _format_of(config: Any) -> TorchFormat:
    torch_format = of_config(config).torch
    if torch_format is None:
        raise InputError(f"a {type(config).__name__} has no PyTorch format to export to.")
    return torch_format


def _without_prefix(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop "module.", "model." or "_orig_mod." where every name begins with it."""
    for prefix in ("module.", "model.", "_orig_mod."):
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return dict(tensors)
