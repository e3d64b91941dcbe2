"""`from_pretrained`: a model from wherever it lies."""

import os
from pathlib import Path
from typing import Any

from mae_jax.errors import InputError
from mae_jax.weights.folder import CONFIG, load_model
from mae_jax.weights.preprocessing import Preprocessing


def from_pretrained(
    where: str | os.PathLike[str], *, revision: str | None = None
) -> tuple[Any, dict[str, Any], Preprocessing]:
    """Reads (model_config, params, preprocessing) of a saved model.

    Args:
      where: the folder of a saved model, or a training's work folder (its `model/`).

    Raises:
      InputError: there is no model, or its files do not fit together.
    """
    path = Path(where)
    if (path / "model" / CONFIG).is_file() and not (path / "model.safetensors").is_file():
        path = path / "model"
    if not path.is_dir():
        raise InputError(f"{where} is no folder of a saved model; check the path.")
    return load_model(path)
