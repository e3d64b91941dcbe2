"""The work folder: one run, one resolved config."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mae_jax import config as configs
from mae_jax.errors import InputError
from mae_jax.files import read_json, write_json
from mae_jax.train.config import TrainConfig

# How a run is computed and watched, but not what it learns: it may resume on other machines.
RESUMABLE_KEYS = (
    "mesh.", "checkpoint.", "log.", "data.workers", "data.cache_bytes",
    "data.max_unreadable_fraction",
    "divergence.rollbacks", "divergence.step_timeout_seconds", "license",
)  # fmt: skip


def create_or_verify(workdir: Path, config: TrainConfig) -> None:
    """Writes the resolved config in `workdir`, or checks that the folder holds the same run.

    A run may resume with other values of the keys in `RESUMABLE_KEYS`, and with more `steps`; the
    file then holds the new ones. A key that the version which wrote the file did not have may have
    any value.

    Raises:
      InputError: the folder holds a run with another config (the message names the first key), or
        cannot be written.
    """
    path, values = workdir / "config.json", configs.to_dict(config)
    differing: list[str] = []
    if is_new := not path.exists():
        if jax.process_index() != 0:
            return
    else:
        saved = read_json(path)
        configs.from_saved(TrainConfig, saved, str(path))
        saved = configs.upgrade_keys(TrainConfig, saved, str(path))
        differing = sorted(_differences(saved, values))
        fixed = [key for key in differing if not key.startswith(RESUMABLE_KEYS)]
        if steps_to_extend(workdir, config):
            fixed.remove("steps")
        if fixed:
            raise InputError(
                f"{workdir} holds a run with another {fixed[0]}; give another --workdir, or the "
                "same config to resume."
            )
    if (is_new or differing) and jax.process_index() == 0:
        try:
            write_json(path, values)
        except OSError as problem:
            raise InputError(
                f"{workdir} cannot be written ({problem.strerror}); make it writable, or give "
                "another --workdir."
            ) from None


def steps_to_extend(workdir: Path, config: TrainConfig) -> int:
    """The number of steps of the run in `workdir`, if `config` has more; 0 if not."""
    path = workdir / "config.json"
    saved = read_json(path) if path.exists() else None
    steps = saved.get("steps") if isinstance(saved, dict) else None
    return steps if isinstance(steps, int) and steps < config.steps else 0


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """The keys of `old` whose values are others in `new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            yield from _differences(value, new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key
