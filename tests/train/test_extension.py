"""A finished run is extended by more steps in the same work folder."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.train import TrainConfig
from mae_jax.train.config import CheckpointConfig, DataConfig, LogConfig, OptimizerConfig
from mae_jax.train.metric_writers import read_metrics
from mae_jax.train.workdir import create_or_verify, steps_to_extend

CONFIG = TrainConfig(
    model=MAEConfig(
        ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("*",)),
        DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
    ),
    # Constant: the rate does not depend on the number of steps, so both ways take the same steps.
    optimizer=OptimizerConfig(schedule="constant", warmup=0.0, lr=1e-3, grad_accum_steps=0),
    data=DataConfig(batch=4, validation_crops=0),
    checkpoint=CheckpointConfig(every=100),
    log=LogConfig(scalars=1, image_every=100),
    steps=3,
)


def test_only_more_steps_extend(tmp_path):
    assert steps_to_extend(tmp_path, CONFIG) == 0
    create_or_verify(tmp_path, CONFIG)
    assert steps_to_extend(tmp_path, CONFIG) == 0
    assert steps_to_extend(tmp_path, replace(CONFIG, steps=4)) == 3
    with pytest.raises(InputError, match="another steps"):
        create_or_verify(tmp_path, replace(CONFIG, steps=2))
    with pytest.raises(InputError, match="another seed"):
        create_or_verify(tmp_path, replace(CONFIG, steps=5, seed=1))
    create_or_verify(tmp_path, replace(CONFIG, steps=5))
    assert read_json(tmp_path / "config.json")["steps"] == 5


@pytest.mark.slow
def test_an_extended_run_ends_as_one_that_was_long_from_the_start(index, train, tmp_path, caplog):
    config = replace(CONFIG, data=replace(CONFIG.data, index=str(index)))
    short = train(config, tmp_path / "run")
    saved = read_json(tmp_path / "run" / "config.json")
    assert saved["model"]["encoder"]["channels"] == ["DNA", "ER"]  # those of the index
    assert saved["optimizer"]["grad_accum_steps"] == 1  # as few as fit
    first = load_model(short).params
    with caplog.at_level(logging.WARNING):
        extended = train(replace(config, steps=6), tmp_path / "run")
    assert "extended to 6" in caplog.text
    assert "schedule 'constant' now spans 6 steps" in caplog.text
    long = train(replace(config, steps=6), tmp_path / "long")
    jax.tree.map(
        np.testing.assert_array_equal, load_model(extended).params, load_model(long).params
    )
    kept = load_model(tmp_path / "run" / "model-3").params
    jax.tree.map(np.testing.assert_array_equal, kept, first)
    rows = [row["step"] for row in read_metrics(tmp_path / "run") if "train/loss" in row]
    assert rows == [1, 2, 3, 4, 5, 6]
