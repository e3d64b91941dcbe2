"""The scale of raw pixels in a training run: given, of the initial model, or of the data."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mae_jax.data import Index
from mae_jax.data.index import ValueRange
from mae_jax.files import read_json
from mae_jax.networks.registry import make_task
from mae_jax.train.config import DataConfig, TrainConfig
from mae_jax.train.warm_start import read_initial_model


def resolve_scale(config: TrainConfig, workdir: Path) -> TrainConfig:
    """Return the config with `data.scale` set, where it is None.

    A run that is resumed keeps its scale, which may be None (the maximum of the pixels' type). A
    new run takes that of the model in `init_from`, else that of the gray values that
    `mae-jax index` has measured: see `scale_of_ranges`.
    """
    if config.data.scale is not None:
        return config
    run = workdir / "config.json"
    if run.exists():
        scale = _entry(read_json(run), "data", "scale")
    else:
        scale = _scale_of_model(config) or _scale_of_data(config.data)
    if scale is None:
        return config
    data = dataclasses.replace(config.data, scale=float(scale))
    return dataclasses.replace(config, data=data)


def scale_of_ranges(ranges: Iterable[ValueRange]) -> float | None:
    """Return the smallest 2^n - 1, n >= 8, that covers the 99.9th percentiles of all channels.

    So 12-bit images in 16-bit files are divided by 4095, and a few saturated pixels do not make
    all others dim. Floats of up to 1 are divided by 1. None without ranges.
    """
    ranges = list(ranges)
    if not ranges:
        return None
    top = max(values.p99_9 for values in ranges)
    if top <= 1 and all(values.dtype.startswith("float") for values in ranges):
        return 1.0
    bits = 8
    while 2**bits - 1 < top:
        bits += 1
    return float(2**bits - 1)


def _scale_of_data(data: DataConfig) -> float | None:
    pairs = [(each.index, each.channels) for each in data.datasets] or [(data.index, ())]
    ranges: list[ValueRange] = []
    for path, channels in pairs:
        if not path:  # a trainer with batches of its own
            return None
        measured = Index.read(path).value_ranges
        chosen = [values for name, values in measured.items() if not channels or name in channels]
        if not chosen:
            return None
        ranges += chosen
    return scale_of_ranges(ranges)


def _scale_of_model(config: TrainConfig) -> float | None:
    """The scale that the model in `init_from` records; 255 for released PyTorch weights."""
    path = config.init_from
    if not path:
        return None
    for folder in (Path(path), Path(path) / "model"):
        if (folder / "config.json").is_file():  # a saved model: its weights need not be read
            return _entry(read_json(folder / "config.json"), "preprocessing", "scale")
    task = make_task(config.model, config.data.crop)
    return read_initial_model(path, task).preprocessing.scale


def _entry(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values
