"""The architecture of a run that starts from another model's weights (`init_from`)."""

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mae_jax.config import from_saved
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.registry import make_task
from mae_jax.train.config import TrainConfig
from mae_jax.train.warm_start import check_network, is_encoder_of, read_initial_model

log = logging.getLogger(__name__)


def adopt_architecture(config: TrainConfig, workdir: Path) -> TrainConfig:
    """Return the config with the architecture of the model in `init_from`.

    Only keys in `Task.run_keys` (channels, classes, crop, how it is computed, mask, loss) stay as
    the config has them, and the decoder where the model is an encoder alone. A run that is resumed
    keeps the architecture in its work folder, and the initial model is not read.
    With `init_architecture="config"`, or without `init_from`, the config is returned as it is.

    Raises:
      InputError: the model cannot be read, is of another network, or its architecture does not fit
        the keys that stay (a crop that its patches do not divide, say).
    """
    if not config.init_from or config.init_architecture == "config":
        return config
    task = make_task(config.model, config.data.crop)
    run = workdir / "config.json"
    if run.exists():
        saved = _same_start(config, run)
        if saved is None:  # `create_or_verify` names the difference
            return config
        source, initial = str(workdir), saved.model
    else:
        source, initial = config.init_from, read_initial_model(config.init_from, task).config
        check_network(source, initial, config.model)
    if is_encoder_of(initial, config.model):
        initial = dataclasses.replace(config.model, encoder=initial)
    try:
        model = task.adopt(initial)
    except InputError as problem:
        raise InputError(
            f"init_from: the architecture of {source} does not fit the config: {problem}"
        ) from None
    taken = list(_taken_over(config.model, model))
    if taken:
        log.warning("init_from: the architecture is that of %s: %s.", source, ", ".join(taken))
    return dataclasses.replace(config, model=model)


def _same_start(config: TrainConfig, run: Path) -> TrainConfig | None:
    """Return a run's config if it adopted the architecture of the same model, else None."""
    values = read_json(run)
    if not isinstance(values, dict) or values.get("init_architecture") != "own":
        return None  # also runs of versions without the key
    saved = from_saved(TrainConfig, values, str(run))
    same = (saved.network, saved.init_from) == (config.network, config.init_from)
    return saved if same else None


def _taken_over(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Yield "key new (not old)" for every key that differs."""
    for field in dataclasses.fields(new):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(after):
            yield from _taken_over(before, after, f"{prefix}{field.name}.")
        elif before != after:
            yield f"{prefix}{field.name} {after} (not {before})"
