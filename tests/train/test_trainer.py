"""The loop: an interrupted run ends as one that never stopped, and says what is wrong."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax import locks
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.train import Callback, TrainConfig
from mae_jax.train.config import CheckpointConfig, DataConfig, LogConfig, MeshConfig
from mae_jax.train.metric_writers import read_metrics
from mae_jax.train.workdir import create_or_verify

MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=32, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
    DecoderConfig(width=32, depth=1, heads=2, cross_heads=2),
)


def config_for(index: Path, steps: int = 6) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=DataConfig(index=str(index), batch=4, validation_crops=4),
        checkpoint=CheckpointConfig(every=2, keep=2),
        log=LogConfig(scalars=1, validation=3, image_every=6, num_images=2),
        steps=steps,
        save_initial_model=True,
    )


@pytest.fixture(scope="module")
def finished(index, train, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "whole"
    train(config_for(index), workdir)
    return workdir


def test_a_run_leaves_what_it_promises(finished):
    config, params, preprocessing = load_model(finished / "model")
    assert config == MODEL
    assert preprocessing.channels == ("DNA", "ER")
    _, first, _ = load_model(finished / "untrained")
    moved = [bool(np.any(np.asarray(a) != np.asarray(b))) for a, b in
             zip(jax.tree.leaves(params), jax.tree.leaves(first), strict=True)]  # fmt: skip
    assert sum(moved) > len(moved) / 2
    rows = read_metrics(finished)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "validation/loss" in row] == [3, 6]
    assert (finished / "panels" / "step_0000006.png").exists()
    assert "| Steps | 6 of 4 crops |" in (finished / "model" / "README.md").read_text()
    assert "| 6 | " in (finished / "model" / "RESULTS.md").read_text()
    assert json.loads((finished / "config.json").read_text())["steps"] == 6
    assert mae_jax.load_encoder(str(finished)).embed(np.ones((1, 3, 16, 16), np.uint16)).shape == (
        1, 32)  # fmt: skip


class Sigterm(Callback):
    """Sends SIGTERM, or another signal, to the process when the metrics of a step are logged."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.at, self.number = step, number

    def on_metrics(self, trainer, step, metrics):
        if step == self.at:
            os.kill(os.getpid(), self.number)


def test_sigterm_saves_and_the_same_command_ends_as_if_it_had_never_come(
    index, train, finished, tmp_path
):
    """The parameters of both runs are equal to the bit."""
    workdir = tmp_path / "killed"
    assert train(config_for(index), workdir, callbacks=[Sigterm(3)]) is None
    assert not (workdir / "model").exists()
    assert train(config_for(index), workdir) == workdir / "model"
    ours, theirs = load_model(workdir / "model")[1], load_model(finished / "model")[1]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    steps = [row["step"] for row in read_metrics(workdir) if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_ctrl_c_saves_and_interrupts(index, train, tmp_path):
    """So that `mae-jax train && …` does not go on: the command exits with 130."""
    with pytest.raises(KeyboardInterrupt):
        train(config_for(index), tmp_path, callbacks=[Sigterm(4, signal.SIGINT)])
    assert not (tmp_path / "model").exists()
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(saved) == 5  # the step that ran when the signal came
    assert train(config_for(index), tmp_path) == tmp_path / "model"


def test_a_folder_in_use_is_refused(index, train, tmp_path):
    with (
        locks.hold(tmp_path),
        pytest.raises(InputError, match=rf"in use by process {os.getpid()} on "),
    ):
        train(config_for(index), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_finished_run_is_left_as_it_is(index, train, finished):
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    train(config_for(index), finished)
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_another_config_in_the_same_folder_is_refused(index, train, finished):
    changed = config_for(index)
    changed = replace(changed, optimizer=replace(changed.optimizer, lr=0.5))
    with pytest.raises(InputError, match=r"another optimizer\.lr"):
        train(changed, finished)


def test_a_run_may_go_on_with_other_machines(index, train, tmp_path):
    config = config_for(index)
    create_or_verify(tmp_path, config)
    moved = replace(config, mesh=MeshConfig(fsdp=2), data=replace(config.data, workers=3))
    create_or_verify(tmp_path, moved)
    assert json.loads((tmp_path / "config.json").read_text())["data"]["workers"] == 3
    with pytest.raises(InputError, match=r"another data\.batch"):
        create_or_verify(tmp_path, replace(moved, data=replace(moved.data, batch=8)))


def test_a_channel_that_the_screen_lacks_is_named(index, train, tmp_path):
    encoder = replace(MODEL.encoder, channels=("DNA", "Mito"))
    config = replace(config_for(index), model=replace(MODEL, encoder=encoder))
    with pytest.raises(InputError, match="no channel 'Mito'"):
        train(config, tmp_path / "run")
