"""`--import MODULE`: modules of a user's own, such as one that registers a network."""

import importlib
import importlib.util
import sys
from pathlib import Path

from mae_jax.errors import InputError


def import_module(name: str) -> None:
    """Import a module by its name, or a file ending in .py under the name of its stem.

    Raises:
      InputError: there is no such module or file.
    """
    path = Path(name)
    if path.suffix != ".py":
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # a module that it imports is missing
            raise InputError(
                f"--import {name}: there is no such module; give a file ending in .py, or add its "
                "folder to PYTHONPATH."
            ) from None
        return
    if path.stem in sys.modules:
        return
    if not path.is_file():
        raise InputError(f"--import {name}: the file does not exist.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # before it runs, as for every import
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
