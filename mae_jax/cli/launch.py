"""`mae-jax launch`: the launchers, which are a folder of a checkout and a part of the wheel."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import mae_jax
from mae_jax.errors import InputError


def launch(argv: Sequence[str]) -> int:
    """Run a command line of the launchers; returns the exit status.

    Raises:
      InputError: neither the installation nor the checkout has the launchers.
    """
    status: int = _launchers().main(argv)
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of the launchers' command line."""
    parser: argparse.ArgumentParser = _launchers().build_parser()
    return parser


def _launchers() -> ModuleType:
    if importlib.util.find_spec("mae_jax.launch") is None:
        _register(Path(mae_jax.__file__).parents[1] / "launch")
    return importlib.import_module("mae_jax.launch.__main__")


def _register(folder: Path) -> None:
    """Import a checkout's `launch` folder under the name that it has when installed."""
    spec = importlib.util.spec_from_file_location(
        "mae_jax.launch", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        raise InputError(f"{folder} does not exist; install mae_jax from its wheel or a checkout.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["mae_jax.launch"] = module
    spec.loader.exec_module(module)
