"""Tensors in safetensors files."""

import os

import numpy as np
import safetensors
import safetensors.numpy

from mae_jax.errors import InputError


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file.

    Raises:
      InputError: the file is missing or in another format.
    """
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except safetensors.SafetensorError as problem:
        raise InputError(f"{path} is not a safetensors file ({problem}).") from None
