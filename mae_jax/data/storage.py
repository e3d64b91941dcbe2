"""Bytes of files, from the local disk or any URL that fsspec knows."""

import os

from mae_jax.data.locators import is_url
from mae_jax.errors import InputError


def read_bytes(path: str) -> bytes:
    """The whole content of a local file or URL.

    Raises:
      InputError: it is missing or cannot be read; the message names it.
    """
    try:
        if is_url(path):
            import fsspec

            with fsspec.open(path, "rb") as file:
                return bytes(file.read())
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file.") from None
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({os.strerror(problem.errno or 5)}).") from None
