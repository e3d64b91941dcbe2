"""Locks: one holder at a time, named to others; crashed and stalled holders are replaced."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from mae_jax import locks
from mae_jax.errors import InputError, MachineError

HOLD = """
import sys, time
from mae_jax import locks
with locks.hold(sys.argv[1], heartbeat=0.1):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def holding_process(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def stored(folder: str) -> tuple[int, locks.Holder]:
    store = locks.open_store(folder, "run")
    number = max(store.numbers())
    return number, store.read(number)


def elsewhere(folder: str, number: int = 1, time_to_live: float = 0.5) -> locks.Store:
    """A lease of a process of another machine, whose clock is of no importance."""
    store = locks.open_store(folder, "run")
    holder = dataclasses.replace(
        locks._this_process(time_to_live), machine="another", host="node7", pid=77
    )
    store.create(number, holder)
    return store


def test_a_lock_is_held_once_and_again_after_its_release(folder):
    with locks.hold(folder) as lease:
        lease.check()
        with pytest.raises(InputError, match=rf"in use by process {os.getpid()} on "):
            locks.hold(folder).__enter__()
        with locks.hold(folder, "another name"):
            pass
    with locks.hold(folder):
        number, holder = stored(folder)
        assert number == 2
        assert not holder.released
    assert locks.open_store(folder, "run").numbers() == [2]  # the first is tidied away


def test_a_second_process_is_told_who_holds_it_at_once(tmp_path):
    process = holding_process(tmp_path)
    try:
        began = time.monotonic()
        with pytest.raises(InputError, match=f"{tmp_path} is in use by process {process.pid} on"):
            locks.hold(tmp_path).__enter__()
        assert time.monotonic() - began < 10
    finally:
        end(process)


def test_a_killed_holder_of_this_machine_is_replaced_at_once(tmp_path):
    end(holding_process(tmp_path))
    number, holder = stored(str(tmp_path))
    assert not holder.released
    # As if the lease lived for an hour: nobody waits for it.
    locks.open_store(tmp_path, "run").write(
        number, dataclasses.replace(holder, time_to_live=3600.0)
    )
    with locks.hold(tmp_path):
        assert stored(str(tmp_path))[0] == number + 1


def test_a_process_number_that_was_given_away_again_is_no_holder(tmp_path):
    store = locks.open_store(tmp_path, "run")
    mine = locks._this_process(3600.0)
    store.create(1, dataclasses.replace(mine, started=mine.started - 1))
    with locks.hold(tmp_path):
        pass


def test_a_silent_holder_elsewhere_is_replaced_when_its_time_is_over(folder):
    elsewhere(folder, time_to_live=0.5)
    began = time.monotonic()
    with locks.hold(folder):
        assert time.monotonic() - began >= 0.5


def test_a_holder_elsewhere_that_is_seen_alive_is_named(folder):
    store = elsewhere(folder, time_to_live=5.0)

    def beat():
        time.sleep(0.2)
        store.write(1, dataclasses.replace(store.read(1), beat=1))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(InputError, match="in use by process 77 on node7"):
        locks.hold(folder).__enter__()
    thread.join()


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_no_clock_is_compared(tmp_path, shift, monkeypatch):
    """Wall clocks and file times that are off by days change nothing."""
    elsewhere(str(tmp_path), time_to_live=0.5)
    now = time.time() + shift
    os.utime(tmp_path / ".lock" / "run.1", (now, now))
    monkeypatch.setattr(time, "time", lambda: now)
    began = time.monotonic()
    with locks.hold(tmp_path):
        assert 0.5 <= time.monotonic() - began < 5


def check_for_seconds(lease: locks.Lease, seconds: int) -> None:
    for _ in range(20 * seconds):
        time.sleep(0.05)
        lease.check()


def test_a_holder_that_was_replaced_learns_it(folder):
    with locks.hold(folder, heartbeat=0.05) as lease:
        elsewhere(folder, number=2)
        with pytest.raises(MachineError, match="process 77 on node7 has taken it over"):
            check_for_seconds(lease, 5)
    assert not locks.open_store(folder, "run").read(2).released


def test_many_at_once_and_one_has_it(folder):
    """Twenty threads replace one dead holder: never two at a time, and in the end all had it."""
    elsewhere(folder, time_to_live=0.2)
    inside, most, done = [], [], []

    def work(number):
        while True:
            try:
                with locks.hold(folder, heartbeat=0.5):
                    inside.append(number)
                    most.append(len(inside))
                    time.sleep(0.005)
                    inside.remove(number)
                done.append(number)
                return
            except InputError:
                time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(20))
    assert max(most) == 1


def test_a_damaged_lease_holds_nobody_up(tmp_path):
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "run.4").write_bytes(b'{"host": 3')
    with locks.hold(tmp_path):
        assert json.loads((tmp_path / ".lock" / "run.5").read_text())["pid"] == os.getpid()


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    with locks.hold(folder, heartbeat=0.05):
        shutil.rmtree(folder)
        time.sleep(0.2)
    assert not folder.exists()


@pytest.mark.parametrize("occupied", ["run", "run/.lock"])
def test_a_file_in_the_way_is_named(tmp_path, occupied):
    path = tmp_path / occupied
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    with pytest.raises(InputError, match="is or holds a file where a folder must be"):
        locks.hold(tmp_path / "run").__enter__()
