"""After too many bad steps a run goes back, leaves their crops out, and can still be resumed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.distributed import mesh as meshes
from mae_jax.errors import InputError
from mae_jax.networks.mae import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.saved_model import load_model
from mae_jax.train import TrainConfig, train
from mae_jax.train import preemption as signals
from mae_jax.train import train_data as batches
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.compiled import build
from mae_jax.train.config import CheckpointConfig, DataConfig, DivergenceConfig, LogConfig
from mae_jax.train.metric_logger import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_once", "one_device")

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
        divergence=DivergenceConfig(max_skipped=1, skip_window=10, rollbacks=1),
        steps=STEPS,
    )


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """The batches that the loop takes, by number; the crops of 7 and 8 have no finite loss."""
    numbers: list[int] = []
    poison(monkeypatch, numbers, {7, 8})
    return numbers


def poison(monkeypatch, numbers: list[int], bad: set[int] | range) -> None:
    real = batches.TrainData.training

    def training(self, start):
        for number, ready in enumerate(real(self, start), start):
            numbers.append(number)
            # float for all of them, so that one program is compiled
            pixels = ready.batch["pixels"].astype(jnp.float32) / 65535
            if number in bad:
                pixels = pixels * jnp.nan
            yield ready._replace(batch={"pixels": pixels})

    monkeypatch.setattr(batches.TrainData, "training", training)


def stop_after(monkeypatch, count: int) -> None:
    """The loop is told to stop after so many steps, as by SIGTERM."""

    def requested(self) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        self.received = self.asked == count
        return self.received

    monkeypatch.setattr(signals.StopSignal, "requested", requested)


def test_a_run_goes_back_and_leaves_the_bad_crops_out(index, tmp_path, taken, caplog):
    train(config_for(index), tmp_path / "whole")
    # Batch 8 is the second bad one; that is read with step 10, while batch 10 is under way. The
    # last checkpoint before batch 7 is that of step 6, and batch 10 now follows it.
    assert taken == [*range(11), *range(10, 10 + STEPS - 6)]
    assert (
        "back to the checkpoint of step 6, leaving out the batches of steps 7 to 10" in caplog.text
    )
    rows = [row for row in read_metrics(tmp_path / "whole") if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 14]
    assert [row["train/skipped"] for row in rows] == [0, 0, 0, 2, 2, 2, 2]
    assert np.isfinite([row["train/loss"] for row in rows]).all()


@pytest.mark.slow
def test_an_interrupted_run_goes_back_as_one_that_never_stopped(index, tmp_path, taken):
    """Stopped with one bad step behind it, with two, and after going back."""
    train(config_for(index), tmp_path / "whole")
    for count in (8, 9, 11):
        workdir = tmp_path / str(count)
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, count)
            train(config_for(index), workdir)
        assert not (workdir / "model").exists()
        taken.clear()
        train(config_for(index), workdir)
        assert taken[-1] == 9 + STEPS - 6
        ours, theirs = (load_model(p / "model")[1] for p in (workdir, tmp_path / "whole"))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_run_that_keeps_failing_gives_up(index, tmp_path, monkeypatch):
    poison(monkeypatch, [], range(7, 100))
    with pytest.raises(InputError, match=r"gone back 1 times already.*lower optimizer\.lr"):
        train(config_for(index), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_trouble_before_the_first_checkpoint_has_no_way_back(index, tmp_path, monkeypatch):
    poison(monkeypatch, [], range(100))
    with pytest.raises(InputError, match="there is no way back"):
        train(config_for(index), tmp_path / "run")


def alive() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


def test_a_restored_state_takes_no_more_memory_than_a_fresh_one(index, tmp_path):
    """Every array of it is given to the first step, which writes the new state in its place."""
    config = config_for(index)
    run = build(config, meshes.make_mesh(config.mesh))
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
