"""Callbacks and evaluators of users, and how the trainer's own are scheduled and timed."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

import mae_jax
from mae_jax.cli.config_file import load_hooks
from mae_jax.distributed.mesh import make_mesh
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.train import Callback, Evaluator, TrainConfig, Trainer
from mae_jax.train.config import (
    CheckpointConfig,
    DataConfig,
    EarlyStoppingConfig,
    LogConfig,
    MeshConfig,
)
from mae_jax.train.metric_writers import read_metrics
from mae_jax.train.throughput import ThroughputTracker

EXAMPLE = Path(__file__).parents[2] / "examples" / "callback.py"
MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
    DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)


def config_for(index: Path, **changes) -> TrainConfig:
    config = TrainConfig(
        model=MODEL,
        data=DataConfig(index=str(index), batch=4, validation_crops=4),
        checkpoint=CheckpointConfig(every=2),
        log=LogConfig(scalars=1, validation=100, image_every=100),
        steps=6,
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["config", "script"])
def test_the_example_runs(index, tmp_path, how):
    workdir = tmp_path / "run"
    command = {
        "config": ["-m", "mae_jax.cli.main", "train", "--config", str(EXAMPLE),
                   f"--config.data.index={index}"],
        "script": [str(EXAMPLE), "--index", str(index)],
    }[how]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(mae_jax.__file__).parents[1])
    subprocess.run(
        [sys.executable, *command, "--workdir", str(workdir)], check=True, env=environment
    )
    rows = read_metrics(workdir)
    norms = [row["train/gradient_norm"] for row in rows if "train/gradient_norm" in row]
    assert json.loads((workdir / "gradient_norm.json").read_text()) == {"largest": max(norms)}
    steps = [row["step"] for row in rows if "validation/parameter_norm" in row]
    assert steps == [20, 40, 60, 80, 100]


def test_hooks_of_a_config_file_are_optional_and_checked(tmp_path):
    callbacks, evaluators = load_hooks(str(EXAMPLE))
    assert [c.name for c in callbacks] == ["GradientNormHistory"]
    assert [e.name for e in evaluators] == ["ParameterNorm"]
    assert load_hooks("demo") == ([], [])
    path = tmp_path / "wrong.py"
    path.write_text("def get_evaluators():\n    return [3]\n")
    with pytest.raises(InputError, match=r"get_evaluators\(\) must return objects of .*Evaluator"):
        load_hooks(str(path))


class Counting(Callback):
    """Counts its runs; its count is saved."""

    every = 2

    def __init__(self, stop_at: int = 0) -> None:
        self.runs: list[int] = []
        self._stop_at = stop_at

    def run(self, trainer):
        self.runs.append(trainer.step)
        if trainer.step == self._stop_at:
            trainer.stop("enough")

    def state_dict(self):
        return {"runs": self.runs}

    def load_state_dict(self, state):
        self.runs = list(state.get("runs", []))


class Ready(Evaluator):
    """Whether the step before has ended when the evaluation begins."""

    every = 3

    def __init__(self) -> None:
        self.ready: list[bool] = []

    def evaluate(self, trainer):
        self.ready.append(all(leaf.is_ready() for leaf in jax.tree.leaves(trainer.state)))
        return {"validation/answer": 42.0}


def test_callbacks_and_evaluators_run_on_schedules_of_their_own(index, train, tmp_path, caplog):
    counting, ready = Counting(stop_at=4), Ready()
    model = train(config_for(index), tmp_path, callbacks=[counting], evaluators=[ready])
    assert model == tmp_path / "model"  # stopped by a callback, a run is finished
    assert "step 4 of 6 is the last: enough" in caplog.text
    assert counting.runs == [2, 4]
    assert ready.ready == [True]
    rows = [row for row in read_metrics(tmp_path) if "validation/answer" in row]
    assert [row["step"] for row in rows] == [3]
    meta = json.loads((tmp_path / "checkpoints" / "4" / "meta" / "metadata").read_text())
    assert meta["callbacks"]["Counting"] == {"runs": [2, 4]}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_does_not_count_steps_as_validation(index, tmp_path):
    """An evaluator begins when the step, which has only been dispatched, has ended."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    clock = Clock()

    class Dispatched:
        """Stands in for an array that is ready after ten seconds."""

        def block_until_ready(self):
            clock.now += 10

    class FiveSeconds(Evaluator):
        def evaluate(self, trainer):
            clock.now += 5
            return {}

    trainer = Trainer(config_for(index), mesh, evaluators=[FiveSeconds()], workdir=tmp_path)
    trainer.throughput = ThroughputTracker(4, 1e9, 1, None, clock=clock, wall_clock=clock)
    trainer.throughput.read(1)
    trainer.state = SimpleNamespace(step=Dispatched())
    trainer.evaluate("FiveSeconds")
    values = trainer.throughput.read(2)
    assert values["speed/crops_per_second"] == 4 / 10
    assert values["speed/goodput"] == 10 / 15


@pytest.mark.slow
def test_early_stopping_counts_evaluations_of_its_own(index, train, tmp_path):
    """Whatever is logged: validation at every step, or never but at the end."""
    stopping = EarlyStoppingConfig(patience=2, every=2, min_delta=0.99)
    for name, every in (("often", 1), ("never", 1000)):
        config = config_for(
            index,
            steps=50,
            early_stopping=stopping,
            log=LogConfig(scalars=5, validation=every, image_every=1000),
        )
        train(config, tmp_path / name)
        # The first loss is the best; the two that follow are not better by 99 %.
        assert sorted(int(p.name) for p in (tmp_path / name / "checkpoints").iterdir())[-1] == 6
    often, never = (
        [row["step"] for row in read_metrics(tmp_path / name) if "validation/loss" in row]
        for name in ("often", "never")
    )
    assert often == [1, 2, 3, 4, 5, 6]
    assert never == [2, 4, 6]
