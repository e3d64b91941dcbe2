"""Damaged run folders and full or read-only disks: one sentence, or the run resumes rightly."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

import mae_jax
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.train import Callback, TrainConfig
from mae_jax.train.config import CheckpointConfig, DataConfig, EarlyStoppingConfig, LogConfig
from mae_jax.train.metric_writers import read_metrics

MODEL = MAEConfig(
    ParallelViTConfig(patch=8, width=16, depth=1, heads=2, crop=16, channels=("DNA", "ER")),
    DecoderConfig(width=16, depth=1, heads=2, cross_heads=2),
)


def config_for(index: Path) -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        data=DataConfig(index=str(index), batch=4, validation_crops=4),
        checkpoint=CheckpointConfig(every=2),
        # The third loss that is not better by 99 % ends the run at step 8.
        early_stopping=EarlyStoppingConfig(patience=3, every=2, min_delta=0.99),
        log=LogConfig(scalars=1, validation=2, image_every=100),
        steps=20,
    )


class StopAfter(Callback):
    def __init__(self, step: int) -> None:
        self.at = step

    def on_step_end(self, trainer):
        if trainer.step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def stopped(index, train, tmp_path_factory) -> Path:
    """A run that SIGTERM stopped after five steps."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    assert train(config_for(index), workdir, callbacks=[StopAfter(5)]) is None
    return workdir


@pytest.fixture(scope="module")
def weights(index, train, tmp_path_factory):
    """The weights of the same run, never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return load_model(train(config_for(index), workdir))[1]


@pytest.fixture
def workdir(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def remove_metrics(workdir: Path) -> None:
    (workdir / "metrics.jsonl").unlink()


def damage_metrics(workdir: Path) -> None:
    path = workdir / "metrics.jsonl"
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(60):
        content[rng.integers(len(content))] = rng.integers(256)
    path.write_bytes(bytes(content))


def damage_newest_checkpoint(workdir: Path) -> None:
    path = max((workdir / "checkpoints" / "5").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


@pytest.mark.slow
@pytest.mark.parametrize("damage", [remove_metrics, damage_metrics, damage_newest_checkpoint])
def test_a_damaged_run_ends_as_one_that_never_stopped(index, train, workdir, weights, damage):
    """Early stopping included, which counts what the checkpoints say, not the log."""
    damage(workdir)
    ours = load_model(train(config_for(index), workdir))[1]
    jax.tree.map(np.testing.assert_array_equal, ours, weights)
    assert [row["step"] for row in read_metrics(workdir)][-1] == 8


@pytest.mark.parametrize("content", ["", "{", "[]", '{"steps": "many"}', '{"network": "no"}', "\0"])
def test_a_damaged_config_is_named(index, train, workdir, content):
    (workdir / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        train(config_for(index), workdir)


def test_a_run_without_any_sound_checkpoint_says_so(index, train, workdir):
    for path in (workdir / "checkpoints").rglob("d/*"):
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(InputError, match=r"no checkpoint that can be read.*from a backup"):
        train(config_for(index), workdir)
    assert (workdir / "checkpoints" / "5").is_dir()


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def command_line(index: Path, workdir: Path, **changes: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(mae_jax.__file__).parents[1])
    overrides = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return subprocess.run(
        [sys.executable, "-m", "mae_jax.cli.main", "train", "--workdir", str(workdir),
         "--config", str(Path(__file__).parent / "tiny_config.py"),
         f"--config.data.index={index}", *overrides],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_disk_ends_training_with_one_sentence(index, tmp_path):
    with small_disk(tmp_path / "checkpoints", "size=64k"):
        done = command_line(index, tmp_path, steps=8)
    assert done.returncode == 71, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "No space left on device" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "free disk space and run the same command" in last


@pytest.mark.slow
def test_a_read_only_folder_is_named(index, tmp_path):
    with small_disk(tmp_path / "run", "ro"):
        done = command_line(index, tmp_path / "run", steps=8)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "read-only" in done.stderr.strip().splitlines()[-1]


class Memory(Callback):
    """The memory of the process, in bytes, every hundred steps."""

    every = 100

    def __init__(self) -> None:
        self.used: list[int] = []

    def run(self, trainer):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.used.append(pages * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_two_thousand_steps_need_no_more_memory_than_five_hundred(index, train, tmp_path):
    config = dataclasses.replace(
        config_for(index),
        steps=2000,
        early_stopping=EarlyStoppingConfig(),
        checkpoint=CheckpointConfig(every=100, keep=2),
        log=LogConfig(scalars=10, validation=100, image_every=500),
    )
    memory = Memory()
    train(config, tmp_path, callbacks=[memory])
    print([round(used / 2**20) for used in memory.used])
    assert len(memory.used) == 20
    assert memory.used[-1] - memory.used[4] < 64 * 2**20
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 2000
