"""`from_pretrained`: a model from a folder, a run's checkpoint, a PyTorch file or the hub."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from mae_jax.config import from_dict
from mae_jax.encoders.hub import download_model
from mae_jax.encoders.known_models import KNOWN_MODELS
from mae_jax.encoders.run_checkpoint import load_checkpoint, split_reference
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.registry import from_json, of_config
from mae_jax.networks.saved_model import CONFIG, WEIGHTS, PretrainedModel, load_model
from mae_jax.networks.torch_import import (
    IMPORTED_SCALE,
    METADATA_KEY,
    from_metadata,
    import_state_dict,
)
from mae_jax.weights.import_options import ImportOptions
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.state_dict import read_metadata, read_state_dict

# File names of weights in folders of other implementations, in the order of preference.
_TORCH_FILES = (WEIGHTS, "pytorch_model.bin", "*.safetensors", "*.ckpt", "*.pth", "*.pt")


def from_pretrained(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    bias_layout: str | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_eps: float | None = None,
    decoder_norm_eps: float | None = None,
) -> PretrainedModel:
    """Read a model.

    Args:
      path: the name of a published encoder (`encoders.known_models`), with the preprocessing of its
        own recipe; the folder of a saved model; a training's work folder (its `model/`); a
        checkpoint of a run ("runs/x@12000", "runs/x@best", "runs/x@latest"); a file or folder of
        PyTorch weights (`mae_jax.networks.torch_import`); or "owner/name" on the Hugging Face hub.
      revision: a branch, tag or commit on the hub.
      channels: channel names of PyTorch weights, in the model's order; RGB models are adapted to
        that many. Saved models have their own.
      bias_layout, heads, decoder_heads, norm_eps, decoder_norm_eps: properties of PyTorch weights
        (`ImportOptions`); files that this package exported state them.

    Returns:
      The model, which unpacks as (config, params, preprocessing). Imported weights have the scale
      255 of the 8-bit images that published models were trained on.

    Raises:
      InputError: no model is there, its files do not fit together or are damaged, or an option
        contradicts the file.
    """
    options = ImportOptions(channels, bias_layout, heads, decoder_heads, norm_eps, decoder_norm_eps)
    reference = split_reference(path)
    if reference is not None:
        _refuse_options(options, str(path))
        return load_checkpoint(*reference)
    file = Path(path)
    if (file / "model" / CONFIG).is_file() and not (file / WEIGHTS).is_file():
        file = file / "model"
    if not file.exists() and str(path) in KNOWN_MODELS:
        from mae_jax.encoders.published import published_model  # which reads files through this

        _refuse_options(options, str(path))
        known = KNOWN_MODELS[str(path)]
        return published_model(known, known.recipe(), None, revision, channels)
    if not file.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) or str(path).startswith("."):
            raise InputError(f"{path} does not exist; check the path.")
        file = download_model(str(path), revision, ["*.json", *_TORCH_FILES])
    if file.is_dir():
        if (file / CONFIG).is_file() and "kind" in read_json(file / CONFIG):
            _refuse_options(options, str(path))
            return load_model(file)
        file = weights_in(file)
    return _from_torch(file, options)


def imported_preprocessing(config: Any) -> Preprocessing:
    """Return the preprocessing of imported weights, as far as their architecture tells.

    Published models were trained on 8-bit images divided by 255, with the default eps of 1e-5.
    """
    preprocessing = of_config(config).default_preprocessing(config)
    return dataclasses.replace(preprocessing, scale=IMPORTED_SCALE)


def _from_torch(file: Path, options: ImportOptions) -> PretrainedModel:
    tensors = read_state_dict(file)
    exported = from_metadata(read_metadata(file), str(file)) or _from_config_file(file)
    if exported is None:
        config, params = import_state_dict(tensors, str(file), options)
        preprocessing = imported_preprocessing(config)
        if preprocessing.bag_of_channels and options.channels:
            preprocessing = dataclasses.replace(preprocessing, channels=options.channels)
        return PretrainedModel(config, params, preprocessing)
    config, preprocessing = exported
    _check_options(options, config, preprocessing, str(file))
    config, params = import_state_dict(tensors, str(file), config=config)
    return PretrainedModel(config, params, preprocessing)


def _from_config_file(file: Path) -> tuple[Any, Preprocessing] | None:
    """Read the `config.json` that `mae-jax convert --export` writes beside the file."""
    path = file.with_name(CONFIG)
    values = read_json(path) if path.is_file() else {}
    record = values.get(METADATA_KEY) if isinstance(values, dict) else None
    if not isinstance(record, dict) or values.get("weights") not in (file.name, file.stem):
        return None
    preprocessing = from_dict(Preprocessing, record.get("preprocessing"), f"{path}: preprocessing")
    return from_json(record, str(path)), preprocessing


def _check_options(
    options: ImportOptions, config: Any, preprocessing: Preprocessing, source: str
) -> None:
    """Refuse options that contradict what an exported file states."""
    encoder = getattr(config, "encoder", config)
    decoder = getattr(config, "decoder", None)
    stated = {
        "channels": preprocessing.channels,
        "bias_layout": getattr(encoder, "bias_layout", None),
        "heads": getattr(encoder, "heads", None),
        "decoder_heads": getattr(decoder, "heads", None),
        "norm_eps": getattr(encoder, "norm_eps", None),
        "decoder_norm_eps": getattr(decoder, "norm_eps", None),
    }
    for name, value in options.given().items():
        if stated[name] != value:
            raise InputError(
                f"{source} states {name} {stated[name]} in its metadata, not {value}; omit {name}."
            )


def _refuse_options(options: ImportOptions, path: str) -> None:
    # Channels are allowed: warm starts name those of the network that is trained.
    names = [name for name in options.given() if name != "channels"]
    if names:
        raise InputError(
            f"{path} is a saved model, which states its own {names[0]}; omit {names[0]}."
        )


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder of another implementation.

    Raises:
      InputError: there is none.
    """
    for pattern in _TORCH_FILES:
        matches = sorted(folder.glob(pattern))
        if matches:
            return matches[0]
    raise InputError(f"{folder} holds no weights ({', '.join(_TORCH_FILES)}); check the path.")
