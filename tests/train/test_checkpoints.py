"""Checkpoints: which ones stay, and what happens when a disk is full or a file is torn."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.errors import InputError, MachineError
from mae_jax.train.abandoned_io import silence_abandoned_io
from mae_jax.train.checkpoints import Checkpoints
from mae_jax.train.config import CheckpointConfig, DivergenceConfig
from mae_jax.train.divergence import initial_divergence
from mae_jax.train.retention import RetentionPolicy
from mae_jax.train.step import TrainState

FEW_SNAPSHOTS = DivergenceConfig(snapshot_every=1000)
EVERY_STEP = CheckpointConfig(every=1, keep=3, keep_best=0)


def state_of(step: int, size: int = 8) -> TrainState:
    """A small state, all of whose numbers differ from step to step."""
    noise = np.random.default_rng(step).standard_normal(size).astype(np.float32)
    return TrainState(
        step=jnp.int32(step),
        params={"encoder": {"a": jnp.asarray(noise)}, "decoder": {"b": jnp.full(3, step)}},
        opt_state=(jnp.asarray(noise[:8]), ()),
        model_state={},
        ema=None,
        divergence=initial_divergence(DivergenceConfig()),
    )


def like(size: int = 8) -> TrainState:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), state_of(0, size)
    )


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path, EVERY_STEP)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("config", "steps", "losses", "kept"),
    [
        (CheckpointConfig(every=2, keep=2), [2, 4, 6, 8], {}, [6, 8]),
        # an extra save stays while it is the newest, and takes no other's place
        (CheckpointConfig(every=2, keep=2), [2, 4, 6, 7], {}, [4, 6, 7]),
        (CheckpointConfig(every=2, keep=2), [2, 4, 5, 6], {}, [4, 6]),
        (CheckpointConfig(every=2, keep=1, keep_best=2), [2, 4, 6, 8, 10],
         {2: 0.3, 4: 0.1, 6: 0.2, 8: float("inf")}, [4, 6, 10]),
        (CheckpointConfig(every=2, keep=1, keep_best=0, keep_every=4), [2, 4, 6, 8, 9, 10],
         {2: 0.1}, [4, 8, 10]),
    ],
)  # fmt: skip
def test_the_last_the_best_and_every_kth_are_kept(config, steps, losses, kept):
    infos = [
        SimpleNamespace(step=s, metrics={"validation_loss": losses[s]} if s in losses else None)
        for s in steps
    ]
    answers = RetentionPolicy(config, FEW_SNAPSHOTS).should_preserve(infos, context=None)
    assert [s for s, stays in zip(steps, answers, strict=True) if stays] == kept


def test_the_best_survives_a_restart_and_later_saves(tmp_path):
    config = CheckpointConfig(every=2, keep=1, keep_best=1)
    losses = {2: 0.5, 4: 0.2, 6: 0.3, 8: float("nan"), 10: None}
    for part in ((2, 4, 6), (8, 10)):
        made = Checkpoints(tmp_path, config)
        for step in part:
            made.save(step - 1, state_of(step - 1))  # not due
            made.save(step, state_of(step), loss=losses[step])
        made.finish()
        made.close()
    assert made.steps == [4, 10]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "4"]


def tear(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        tear,
        lambda folder: shutil.rmtree(folder / "state"),
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        lambda folder: [shutil.rmtree(path) for path in folder.glob("*/d")],
    ],
    ids=["torn", "item", "manifest", "arrays"],
)
def test_a_broken_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path, checkpoints, damage, caplog
):
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    checkpoints.close()
    damage(tmp_path / "checkpoints" / "2")
    again = Checkpoints(tmp_path, EVERY_STEP)
    found = again.restore(like())
    jax.tree.map(np.testing.assert_array_equal, found, state_of(1))
    assert "the checkpoint of step 2 cannot be read" in caplog.text
    assert (tmp_path / "checkpoints" / "broken-2").is_dir()
    again.save(2, state_of(2))  # its place is free
    again.finish()
    jax.tree.map(np.testing.assert_array_equal, again.restore(like()), state_of(2))
    again.close()


def test_what_fits_no_checkpoint_moves_none(tmp_path, checkpoints):
    """As after a change of the network: nothing is wrong with the files."""
    checkpoints.save(1, state_of(1))
    checkpoints.finish()
    with pytest.raises(InputError, match="no checkpoint that can be read, the newest because"):
        checkpoints.restore(like(size=9))
    assert (tmp_path / "checkpoints" / "1").is_dir()


def test_going_back_takes_a_regular_checkpoint_and_drops_the_newer(tmp_path):
    made = Checkpoints(
        tmp_path, CheckpointConfig(every=2, keep=3), DivergenceConfig(snapshot_every=2)
    )
    for step in (2, 4, 5, 6):
        made.save(step, state_of(step), force=step == 5)
        made.finish()
    assert made.steps == [2, 4, 6]
    assert int(made.restore(like(), until=5).step) == 4
    made.delete_after(4)
    assert made.steps == [2, 4]
    with pytest.raises(InputError, match="of step 1 or before"):
        made.restore(like(), until=1)
    made.close()


def test_a_state_in_trouble_is_not_saved(checkpoints):
    state = state_of(1)
    faults = state.divergence.replace(rollback_step=jnp.int32(0))
    checkpoints.save(1, state.replace(divergence=faults), force=True)
    checkpoints.finish()
    assert checkpoints.steps == []


def test_a_full_disk_is_told_and_later_saves_succeed(tmp_path, caplog):
    """A small file system of its own, really full."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    size, room = 250_000, folder / "room"
    try:
        made = Checkpoints(tmp_path, CheckpointConfig(every=1, keep=1))
        made.save(1, state_of(1, size))
        made.finish()
        room.write_bytes(b"1" * 2_700_000)
        made.save(2, state_of(2, size))
        with pytest.raises(
            MachineError, match=r"state of step 2 could not be saved.*free disk space"
        ):
            made.finish()
        assert "No space left on device" in caplog.text
        assert made.steps == [1]
        room.write_bytes(b"1" * 1_000_000)  # enough, if what was begun of step 2 is swept away
        made.save(3, state_of(3, size))
        made.finish()
        assert sorted(p.name for p in folder.iterdir()) == ["3", "room"]
        jax.tree.map(np.testing.assert_array_equal, made.restore(like(size)), state_of(3, size))
        made.close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_save_that_fails_at_once_is_told_too(checkpoints, monkeypatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints.save(1, state_of(1))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", full)
        checkpoints.save(2, state_of(2))
    assert "state of step 2 could not be saved" in caplog.text
    with pytest.raises(MachineError, match="resumes from step 1"):
        checkpoints.finish()
    checkpoints.save(3, state_of(3))
    checkpoints.finish()
    assert checkpoints.steps == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_no_flipped_bit_is_ever_restored(tmp_path, seed):
    """In every file of a checkpoint; it or the one before is restored, whole and right."""
    saved = Checkpoints(tmp_path / "saved", EVERY_STEP)
    for step in (1, 2):
        saved.save(step, state_of(step, 5000), callbacks={"EarlyStopping": {"losses": [step]}})
    saved.close()
    folder = tmp_path / "saved" / "checkpoints" / "2"
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    assert len(files) > 6
    rng = np.random.default_rng(seed)
    restored = {1: 0, 2: 0}
    for number in range(30):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "saved", workdir)
        path = workdir / "checkpoints" / "2" / files[number % len(files)].relative_to(folder)
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        reader = Checkpoints(workdir, EVERY_STEP)
        state, callbacks = reader.restore_with_callbacks(like(5000))
        reader.close()
        step = int(state.step)
        restored[step] += 1
        jax.tree.map(np.testing.assert_array_equal, state, state_of(step, 5000))
        assert callbacks == {"EarlyStopping": {"losses": [step]}}
        assert (workdir / "checkpoints" / "broken-2").exists() == (step == 1)
        shutil.rmtree(workdir)
    assert restored[1] > 3  # the others hit bytes that nobody reads


def test_wrong_arrays_in_sound_files_are_not_restored(tmp_path, checkpoints, caplog):
    """As after damage in memory or a copy of another run's files: only checksums tell."""
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step))
    checkpoints.close()
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "3" / "state")
    shutil.copytree(folder / "2" / "state", folder / "3" / "state")
    reader = Checkpoints(tmp_path, EVERY_STEP)
    assert int(reader.restore(like()).step) == 2
    reader.close()
    assert "arrays differ from their checksums" in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path, checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step))
    checkpoints.close()
    tear(tmp_path / "checkpoints")
    reader = Checkpoints(tmp_path, EVERY_STEP)
    with pytest.raises(InputError, match=r"no checkpoint that can be read.*restore one from a ba"):
        reader.restore(like())
    reader.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3"]


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"checkpoints cannot be written.*another --workdir"):
        Checkpoints(tmp_path, EVERY_STEP)


def test_only_abandoned_reads_and_writes_are_silenced(monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    silence_abandoned_io()
    closed = RuntimeError("Event loop is closed")
    sys.unraisablehook(SimpleNamespace(object=None, exc_value=closed))
    assert told == []
    ours = SimpleNamespace(object=print, exc_value=closed)
    other = SimpleNamespace(object=None, exc_value=ValueError("another"))
    sys.unraisablehook(ours)
    sys.unraisablehook(other)
    assert told == [ours, other]
