"""The work folder: one run, one resolved config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mae_jax import config as configs
from mae_jax.errors import InputError
from mae_jax.files import read_json, write_json
from mae_jax.train.config import TrainConfig


def claim(workdir: Path, config: TrainConfig) -> None:
    """Writes the resolved config in `workdir`, or checks that the same one stands there.

    Raises:
      InputError: the folder holds a run with another config; the message names the first key.
    """
    path, values = workdir / "config.json", configs.to_dict(config)
    if not path.exists():
        if jax.process_index() == 0:
            write_json(path, values)
        return
    differing = sorted(_differences(read_json(path), values))
    if differing:
        raise InputError(
            f"{workdir} holds a run with another {differing[0]}; "
            "give another --workdir, or the same config to go on."
        )


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}{'.' * bool(where)}{key}")
    elif old != new:
        yield where
