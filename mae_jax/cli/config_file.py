"""Reads a config file with its overrides, as ml-collections does, and explains what is wrong."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from mae_jax.config import nearest
from mae_jax.errors import InputError


def load_config(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The `ConfigDict` of the config file `path` (`file.py` or `file.py:argument`).

    Args:
      path: a Python file with `get_config()`; what follows a colon is handed to it.
      overrides: arguments such as `--config.optimizer.lr=1e-4`.

    Raises:
      InputError: no such file, an unknown key (its nearest neighbour is named), a value of the
        wrong type, or an argument that is no override.
    """
    file = path.split(":", 1)[0]
    if not Path(file).is_file():
        raise InputError(f"the config file {file} does not exist; see configs/ for those that do.")
    argv = ["mae-jax", f"--config={path}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        with warnings.catch_warnings():  # ml_collections loads the file by a deprecated call
            warnings.simplefilter("ignore", DeprecationWarning)
            rest = values(argv)
    except (AttributeError, KeyError) as problem:
        known = _known_keys(path)
        wrong = [o for o in overrides if _key(o) not in known and o.startswith("--config.")]
        if not wrong:
            raise InputError(f"{file} does not load: {problem}") from problem
        key = _key(wrong[0])
        raise InputError(f"the config has no key '{key}': {nearest(key, known)}") from None
    except flags.Error as problem:
        said = re.search(r"InputError: (.*)", str(problem))
        if said:  # by the file's get_config
            raise InputError(said[1]) from None
        raise InputError(f"{str(problem).rstrip('.')}.") from None
    if rest[1:]:
        raise InputError(f"'{rest[1]}' is no override; they look like --config.optimizer.lr=1e-4.")
    return values.config


def _key(override: str) -> str:
    return override.removeprefix("--config.").split("=", 1)[0]


def _known_keys(path: str) -> list[str]:
    config = load_config(path)

    def walk(table: ml_collections.ConfigDict, prefix: str) -> list[str]:
        keys = []
        for key in table:
            keys.append(f"{prefix}{key}")
            value = table.get_ref(key).get() if isinstance(table, ml_collections.ConfigDict) else 0
            if isinstance(value, ml_collections.ConfigDict):
                keys += walk(value, f"{prefix}{key}.")
        return keys

    return walk(config, "")
