"""What a run says of itself: speed, goodput, plateau, records."""

import sys
import types

import numpy as np
import pytest

from mae_jax.errors import InputError
from mae_jax.files import write_json
from mae_jax.train import throughput as meters
from mae_jax.train.config import EarlyStoppingConfig
from mae_jax.train.early_stopping import EarlyStopping
from mae_jax.train.metric_logger import Records, history
from mae_jax.train.throughput import ThroughputTracker


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meters, "time", clock)
    return clock


def test_speed_counts_steps_with_their_wait_and_goodput_the_steps_alone(clock):
    meter = ThroughputTracker(batch=8, flops=1e12, devices=4, peak=100e12)
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
    meter = ThroughputTracker(batch=8, flops=1e12, devices=1, peak=None, history=past)
    values = meter.read(6)
    assert values["speed/goodput"] == pytest.approx(40 / 100)
    clock.now += 10
    values = meter.read(7)
    assert values["speed/goodput"] == pytest.approx(50 / 110)
    assert "speed/mfu" not in values


def test_a_plateau_is_so_many_losses_in_a_row_that_are_no_better():
    plateau = EarlyStopping(EarlyStoppingConfig(patience=2, min_delta=0.1), history=[1.0, 0.95])
    assert not plateau.reached
    plateau.add(0.8)  # better by more than a tenth
    plateau.add(0.75)
    assert not plateau.reached
    plateau.add(float("nan"))
    assert plateau.reached
    assert not EarlyStopping(EarlyStoppingConfig(patience=0), history=[1.0] * 9).reached


def test_the_past_of_a_run_ends_at_the_step_it_goes_on_from(tmp_path):
    records = Records(tmp_path, 0)
    for step in (1, 2, 3):
        records.scalars(step, {"train/loss": step / 10})
    records.close()
    assert [row["step"] for row in history(tmp_path, 2)] == [0, 1, 2]
    assert history(tmp_path, 2)[0]["run/began"] > 0
    assert history(tmp_path / "new", 2) == []


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
        records = Records(tmp_path, start, "cells")
        records.scalars(start + 1, {"train/loss": 0.5})
        records.close()
    assert started[0]["project"] == "cells"
    assert started[0]["config"] == {"steps": 5}
    assert started[0]["id"] == started[1]["id"]
    assert calls == [(1, {"train/loss": 0.5}), ("end",), (2, {"train/loss": 0.5}), ("end",)]


def test_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"mae_jax\[wandb\]"):
        Records(tmp_path, 0, "cells")
