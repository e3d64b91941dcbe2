"""After too many bad steps a run rolls back, leaves their crops out, and can still be resumed."""

import os
import signal
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.distributed import mesh as meshes
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.registry import make_task
from mae_jax.networks.saved_model import load_model
from mae_jax.train import Callback, TrainConfig
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.compiled import build
from mae_jax.train.config import (
    CheckpointConfig,
    DataConfig,
    DivergenceConfig,
    LogConfig,
    MeshConfig,
)
from mae_jax.train.metric_writers import read_metrics
from mae_jax.train.train_data import TrainData

pytestmark = pytest.mark.usefixtures("compiled_once")

MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
    DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)
STEPS = 14


def config_for(index: Path) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=DataConfig(index=str(index), batch=4, validation_crops=0),
        checkpoint=CheckpointConfig(every=2, keep=4),
        log=LogConfig(scalars=2, validation=100, image_every=100),
        divergence=DivergenceConfig(
            max_skipped=1, skip_window=10, rollbacks=1, check_every=2, snapshot_every=2
        ),
        steps=STEPS,
    )


class BadData:
    """The batches of a config, where those whose numbers are `bad` give no finite loss.

    With `spikes` they give a high loss: all others are so dim that their own standardization
    leaves little of them.

    Attributes:
      taken: the numbers of the batches that the trainer took.
    """

    def __init__(self, config: TrainConfig, bad: Container[int], spikes: bool = False):
        mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
        self._data = TrainData(config, make_task(config.model), mesh)
        self._bad, self._spikes = bad, spikes
        self.taken: list[int] = []

    def training(self, start):
        for number, ready in enumerate(self._data.training(start), start):
            self.taken.append(number)
            # float for all of them, so that one program is compiled
            pixels = ready.batch["pixels"].astype(jnp.float32)
            is_bad = number in self._bad
            pixels *= (1.0 if is_bad else 1e-8) if self._spikes else (np.nan if is_bad else 1.0)
            yield ready._replace(batch={"pixels": pixels})

    def validation(self):
        return []


class StopAfter(Callback):
    """Sends SIGTERM at the end of a step."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, trainer):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_rolls_back_and_leaves_the_bad_crops_out(index, train, tmp_path, caplog):
    config = config_for(index)
    data = BadData(config, {7, 8})
    train(config, tmp_path, data=data)
    # Batch 8 is the second bad one; that is read with step 10, while batch 10 is under way. The
    # last checkpoint before batch 7 is that of step 6, and batch 10 now follows it.
    assert data.taken == [*range(11), *range(10, 10 + STEPS - 6)]
    assert (
        "rolled back to the checkpoint of step 6, leaving out the batches of steps 7 to 10"
        in caplog.text
    )
    rows = [row for row in read_metrics(tmp_path) if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 14]
    assert [row["train/skipped"] for row in rows] == [0, 0, 0, 2, 2, 2, 2]
    assert np.isfinite([row["train/loss"] for row in rows]).all()


@pytest.mark.slow
def test_an_interrupted_run_rolls_back_as_one_that_never_stopped(index, train, tmp_path):
    """Stopped with one bad step behind it, with two, and after rolling back."""
    config = config_for(index)
    train(config, tmp_path / "whole", data=BadData(config, {7, 8}))
    for count in (8, 9, 11):
        workdir = tmp_path / str(count)
        stop = StopAfter(count)
        assert train(config, workdir, data=BadData(config, {7, 8}), callbacks=[stop]) is None
        data = BadData(config, {7, 8})
        train(config, workdir, data=data)
        assert data.taken[-1] == 9 + STEPS - 6
        ours, theirs = (load_model(p / "model")[1] for p in (workdir, tmp_path / "whole"))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def spiked(index, train, tmp_path_factory):
    """(config, weights) of a run with two loss spikes, one of which comes at the very end."""
    config = config_for(index)
    config = replace(
        config, divergence=replace(config.divergence, stats_window=4, spike=3.0, rollbacks=2)
    )
    workdir = tmp_path_factory.mktemp("spiked")
    weights = _weights_after_spikes(train, config, workdir)
    assert [row["train/skipped"] for row in read_metrics(workdir) if "train/loss" in row][-1] == 4
    return config, weights


def _weights_after_spikes(train, config: TrainConfig, workdir: Path):
    # Batches 7 and 8 fail; after the rollback, 16 and 17 are those of the last two steps.
    data = BadData(config, {7, 8, 16, 17}, spikes=True)
    train(config, workdir, data=data)
    assert data.taken.count(10) == 2
    return load_model(workdir / "model")[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"log": LogConfig(scalars=1, validation=1, image_every=5)},
        {"log": LogConfig(scalars=7)},
        {"log": LogConfig(scalars=1000), "checkpoint": CheckpointConfig(every=3, keep=1)},
        {"checkpoint": CheckpointConfig(every=1000, keep_best=0)},
    ],
    ids=["log-1", "log-7", "checkpoint-3", "checkpoint-never"],
)
def test_what_is_learned_does_not_depend_on_logging_or_checkpoints(
    spiked, train, tmp_path, changes
):
    config, weights = spiked
    ours = _weights_after_spikes(train, replace(config, **changes), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, ours, weights)


def test_a_run_that_keeps_diverging_gives_up(index, train, tmp_path):
    config = config_for(index)
    with pytest.raises(InputError, match=r"rolled back 1 times already.*lower optimizer\.lr"):
        train(config, tmp_path / "run", data=BadData(config, range(7, 100)))
    assert not (tmp_path / "run" / "model").exists()


def test_divergence_before_the_first_snapshot_has_no_way_back(index, train, tmp_path):
    config = config_for(index)
    with pytest.raises(InputError, match="there is no snapshot to roll back to"):
        train(config, tmp_path / "run", data=BadData(config, range(100)))


def alive() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


def test_a_restored_state_takes_no_more_memory_than_a_fresh_one(index, tmp_path):
    """Every array of it is given to the first step, which writes the new state in its place."""
    config = config_for(index)
    run = build(config, meshes.make_mesh(config.mesh, jax.devices()[:1]))
    pixels = np.random.default_rng(0).integers(0, 65535, (4, 2, 16, 16), dtype=np.uint16)
    batch = meshes.to_global_array({"pixels": pixels}, run.mesh)
    step = run.step.lower(run.state, batch, None).compile()
    size = sum(s.size * s.dtype.itemsize for s in jax.tree.leaves(run.state))
    assert step.memory_analysis().alias_size_in_bytes >= size

    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    before, used = alive(), {}
    for kind in ("fresh", "restored"):
        given = run.init() if kind == "fresh" else checkpoints.restore(run.state)
        assert kind == "fresh" or alive() == before + size
        state, scalars = step(given, batch)
        jax.block_until_ready(state)
        used[kind] = alive() - before
        assert all(array.is_deleted() for array in jax.tree.leaves(given))
        if kind == "fresh":
            checkpoints.save(2, state)
            checkpoints.finish()
        del given, state, scalars
    checkpoints.close()
    assert used["restored"] == used["fresh"] < 1.1 * size
