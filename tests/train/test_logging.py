"""Metrics of a run: throughput, goodput, early stopping, writers."""

import sys
import types

import jax
import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.files import write_json
from mae_jax.train.callbacks import EarlyStopping
from mae_jax.train.config import EarlyStoppingConfig
from mae_jax.train.metric_writers import NoopWriter, make_writer, read_metrics
from mae_jax.train.throughput import ThroughputTracker


class Clock:
    """Stands in for `time.monotonic` and `time.time`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_speed_counts_steps_with_their_wait_and_goodput_the_steps_alone(clock):
    meter = ThroughputTracker(
        batch=8, flops=1e12, devices=4, peak=100e12, clock=clock, wall_clock=clock
    )
    clock.now += 30  # compiling
    first = meter.read(1)
    assert first == {"speed/goodput": 0, "run/useful_seconds": 0}
    with meter.time("data"):
        clock.now += 1
    clock.now += 4  # ten steps
    with meter.time("validation"):
        clock.now += 5
    values = meter.read(11)
    assert values["speed/crops_per_second"] == pytest.approx(80 / 5)
    assert values["speed/tflops_per_device"] == pytest.approx(16 / 4)
    assert values["speed/mfu"] == pytest.approx(0.04)
    assert values["speed/data_wait"] == pytest.approx(1 / 5)
    assert values["run/useful_seconds"] == pytest.approx(4)
    assert values["speed/goodput"] == pytest.approx(4 / 40)


def test_goodput_goes_on_over_restarts(clock):
    past = [{"step": 0, "run/began": 900.0}, {"step": 5, "run/useful_seconds": 40.0}]
    meter = ThroughputTracker(
        batch=8, flops=1e12, devices=1, peak=None, history=past, clock=clock, wall_clock=clock
    )
    values = meter.read(6)
    assert values["speed/goodput"] == pytest.approx(40 / 100)
    clock.now += 10
    values = meter.read(7)
    assert values["speed/goodput"] == pytest.approx(50 / 110)
    assert "speed/mfu" not in values


def test_a_clock_that_is_set_back_leaves_goodput_a_share():
    wall, steady = Clock(), Clock()
    meter = ThroughputTracker(8, 1e12, 1, None, clock=steady, wall_clock=wall)
    meter.read(1)
    steady.now += 10
    wall.now -= 3600
    assert meter.read(2)["speed/goodput"] == 1


@pytest.mark.parametrize(
    ("losses", "reached"),
    [
        ([1.0, 0.95], False),  # the first is better than none
        ([1.0, 0.95, 0.8, 0.75], False),
        ([1.0, 0.95, 0.8, 0.75, float("nan")], True),
        ([1.0, 0.95, 0.92], True),
    ],
)
def test_early_stopping_counts_losses_in_a_row_that_are_no_better(losses, reached):
    stopping = EarlyStopping(EarlyStoppingConfig(patience=2, min_delta=0.1))
    stopping.load_state_dict({"losses": losses})
    assert stopping.reached == reached
    assert stopping.state_dict() == {"losses": losses}
    stopping = EarlyStopping(EarlyStoppingConfig(patience=0))
    stopping.load_state_dict({"losses": [1.0] * 9})
    assert not stopping.reached


def test_a_run_that_resumes_drops_the_rows_beyond(tmp_path):
    writer = make_writer(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"train/loss": step / 10})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path, until=2)] == [0, 1, 2]
    assert read_metrics(tmp_path)[0]["run/began"] > 0
    assert read_metrics(tmp_path / "new") == []
    make_writer(tmp_path, 2).close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]


def test_damaged_rows_are_left_out(tmp_path):
    writer = make_writer(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write_scalars(step, {"train/loss": step / 10})
    writer.close()
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1:3] = [b'{"step": 1, "tr\xff\n', b"[2]\n", b'{"step": "2"}\n', b"\x00\n"]
    path.write_bytes(b"".join(lines) + b'{"step": 4, "train/')
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 3]
    writer = make_writer(tmp_path, 3)
    writer.write_scalars(4, {"train/loss": 0.4})
    writer.close()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 3, 4]


def test_other_hosts_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    writer = make_writer(tmp_path, 0, "cells")
    assert isinstance(writer, NoopWriter)
    writer.write_scalars(1, {"train/loss": 0.5})
    writer.write_image(1, "reconstruction", np.zeros((2, 2, 3), np.uint8))
    writer.close()
    assert not list(tmp_path.iterdir())


def test_wandb_gets_the_same_numbers_under_one_name(tmp_path, monkeypatch):
    calls: list[tuple] = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append(("end",))
    )
    started: list[dict] = []
    fake = types.SimpleNamespace(init=lambda **how: started.append(how) or run, Image=np.shape)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write_json(tmp_path / "config.json", {"steps": 5})
    for start in (0, 1):
        writer = make_writer(tmp_path, start, "cells")
        writer.write_scalars(start + 1, {"train/loss": 0.5})
        writer.close()
    assert started[0]["project"] == "cells"
    assert started[0]["config"] == {"steps": 5}
    assert started[0]["id"] == started[1]["id"]
    assert calls == [(1, {"train/loss": 0.5}), ("end",), (2, {"train/loss": 0.5}), ("end",)]


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"mae_jax\[wandb\]"):
        make_writer(tmp_path, 0, "cells")
