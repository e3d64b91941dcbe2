"""The work folder: one run, one resolved config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mae_jax import config as configs
from mae_jax.errors import InputError
from mae_jax.files import read_json, write_json
from mae_jax.train.config import TrainConfig

# Where and how a run is computed and watched, but not what it learns: a run that goes on may have
# other machines.
RESUMABLE_KEYS = (
    "mesh.", "checkpoint.", "log.", "data.workers", "data.cache_bytes",
    "data.max_unreadable_fraction",
    "divergence.rollbacks", "divergence.step_timeout_seconds",
)  # fmt: skip


def create_or_verify(workdir: Path, config: TrainConfig) -> None:
    """Writes the resolved config in `workdir`, or checks that the same run stands there.

    A run may resume with other values of the keys in `RESUMABLE_KEYS`; the file then holds the
    new ones.

    Raises:
      InputError: the folder holds a run with another config; the message names the first key.
    """
    path, values = workdir / "config.json", configs.to_dict(config)
    if not path.exists():
        if jax.process_index() == 0:
            write_json(path, values)
        return
    saved = configs.from_saved(TrainConfig, read_json(path), str(path))
    differing = sorted(_differences(configs.to_dict(saved), values))
    if fixed := [key for key in differing if not key.startswith(RESUMABLE_KEYS)]:
        raise InputError(
            f"{workdir} holds a run with another {fixed[0]}; "
            "give another --workdir, or the same config to go on."
        )
    if differing and jax.process_index() == 0:
        write_json(path, values)


def _differences(old: Any, new: Any, where: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{where}{'.' * bool(where)}{key}")
    elif old != new:
        yield where
