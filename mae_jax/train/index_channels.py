"""The channels of a training run, where its config leaves them to the index."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae_jax.config import from_saved
from mae_jax.config_keys import with_key
from mae_jax.data import Index
from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.channels import ALL_CHANNELS
from mae_jax.networks.registry import make_task
from mae_jax.train.config import DatasetConfig, TrainConfig


def resolve_channels(config: TrainConfig, workdir: Path | None = None) -> TrainConfig:
    """Return the config with the channels of the index, where the model's are `ALL_CHANNELS`.

    They stand in the order of the index; those of several datasets in that of the datasets. A run
    that is resumed keeps the channels in its work folder.

    Raises:
      InputError: there is no index to take them from.
    """
    if make_task(config.model, config.data.crop).channels != ALL_CHANNELS:
        return config
    run = None if workdir is None else workdir / "config.json"
    if run is not None and run.exists():
        saved = from_saved(TrainConfig, read_json(run), str(run))
        return _with_channels(config, make_task(saved.model, saved.data.crop).channels)
    single = DatasetConfig(name="", index=config.data.index)
    names: dict[str, None] = {}
    for dataset in config.data.datasets or (single,):
        if not dataset.index:
            raise InputError(
                "the model's channels are those of the index, which is not given; give "
                "--config.data.index=FILE, or name the channels of the model."
            )
        channels = dataset.channels or Index.read(dataset.index).channels
        names.update(dict.fromkeys(dataset.decoder_channels or channels))
    return _with_channels(config, tuple(names))


def _with_channels(config: TrainConfig, channels: Sequence[str]) -> TrainConfig:
    model: Any = with_key(config.model, "channels", tuple(channels))
    return dataclasses.replace(config, model=model)
