"""`from_pretrained`: a model from a folder, a file or the hub, ours or another implementation's."""

import os
import re
from pathlib import Path
from typing import Any

from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.mae.config import MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import CONFIG, WEIGHTS, load_model
from mae_jax.networks.torch_import import import_state_dict
from mae_jax.weights.preprocessing import Preprocessing
from mae_jax.weights.state_dict import read_state_dict

# What a foreign folder calls its weights, the first found is read.
_FOREIGN_FILES = (WEIGHTS, "pytorch_model.bin", "*.safetensors", "*.ckpt", "*.pth", "*.pt")


def from_pretrained(
    where: str | os.PathLike[str],
    *,
    revision: str | None = None,
    channels: tuple[str, ...] | None = None,
    bias_layout: str = "legacy",
) -> tuple[Any, dict[str, Any], Preprocessing]:
    """Reads (model_config, params, preprocessing) of a model.

    Args:
      where: the folder of a saved model; a training's work folder (its `model/`); a file or a
        folder of another implementation (`mae_jax.networks.torch_import`); or "owner/name" on the
        Hugging Face hub.
      revision: a branch, tag or commit on the hub.
      channels: names of a foreign model's channels, in its order; RGB models are adapted to so
        many.
      bias_layout: of a foreign masked autoencoder; the released ones are "legacy".

    Raises:
      InputError: there is no model, or its files do not fit together.
    """
    path = Path(where)
    if (path / "model" / CONFIG).is_file() and not (path / WEIGHTS).is_file():
        path = path / "model"
    if not path.exists():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(where)) or str(where).startswith("."):
            raise InputError(f"{where} does not exist; check the path.")
        path = _from_hub(str(where), revision)
    if path.is_dir():
        if (path / CONFIG).is_file() and "kind" in read_json(path / CONFIG):
            return load_model(path)
        path = _weights_in(path)
    config, params = import_state_dict(
        read_state_dict(path), str(path), channels=channels, bias_layout=bias_layout
    )
    return config, params, preprocessing_of(config)


def preprocessing_of(config: Any) -> Preprocessing:
    """The record of a foreign model, as far as its architecture tells.

    The scale is left to the type of the pixels: models trained on 8-bit images divided by 255.
    """
    if isinstance(config, MAEConfig):
        return preprocessing_of(config.encoder)
    if isinstance(config, ParallelViTConfig):
        return Preprocessing(
            config.channels, any_channels=config.channel_agnostic, crop=config.crop
        )
    # Section 4: every network of the paper saw crops of 256.
    return Preprocessing(config.channels, crop=256)


def _weights_in(folder: Path) -> Path:
    for pattern in _FOREIGN_FILES:
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise InputError(f"{folder} holds no weights ({', '.join(_FOREIGN_FILES)}); check the path.")


def _from_hub(name: str, revision: str | None) -> Path:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(
            f"{name} is no path here, and reading it from the hub needs the package "
            "huggingface_hub; install it or give a path."
        ) from None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=["*.json", *_FOREIGN_FILES]
            )
        )
    except Exception as problem:  # many kinds: no network, no such model, no such revision
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(
            f"{name} is no path here and could not be read from the hub ({reason})."
        ) from None
