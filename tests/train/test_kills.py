"""Runs that are killed, told to stop or left by a host, as real processes.

All slow: every process traces anew, though imports and compiled programs are shared.
"""

import json
import multiprocessing
import os
import random
import runpy
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mae_jax.train.metric_writers import read_metrics

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
STEPS = 60
PATIENCE = 600  # seconds for a start on a busy machine


# Whatever a run imports, loaded once; every process is a fork of this server.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["mae_jax.cli.config_file", "mae_jax.train", "grain", "runpy"])


class Job:
    """One run of `mae-jax train` in some processes, each with some simulated devices."""

    def __init__(
        self,
        index: Path,
        workdir: Path,
        cache: Path,
        *,
        processes: int = 1,
        devices: int = 1,
        record: Path | None = None,
        **changes: object,
    ) -> None:
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        changed["data.index"] = index
        environment = {}
        if processes > 1:
            environment = {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
                "JAX_NUM_PROCESSES": str(processes),
            }
        options = {
            "jax_platforms": "cpu",
            "jax_num_cpu_devices": devices,
            "jax_compilation_cache_dir": str(cache),
            "jax_persistent_cache_min_compile_time_secs": 0,
        }
        self.logs = [workdir.with_name(f"{workdir.name}-{n}.log") for n in range(processes)]
        self.processes = []
        for number, log in enumerate(self.logs):
            job = {
                "config": str(HERE / "tiny_config.py"),
                "workdir": str(workdir),
                "overrides": [f"--config.{key}={value}" for key, value in changed.items()],
                "environment": environment | {"JAX_PROCESS_ID": str(number)},
                "jax": options,
                "log": str(log),
                "record": record and str(record),
            }
            process = SERVER.Process(
                target=runpy.run_path,
                args=(str(HERE / "child_train.py"), {"JOB": job}, "__main__"),
            )
            process.start()
            self.processes.append(process)

    def running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def wait_for(self, event, seconds: float = PATIENCE) -> bool:
        """Waits until `event()`; whether it came before a process ended."""
        deadline = time.monotonic() + seconds
        while not event():
            if not self.running():
                return False
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.001)
        return True

    def kill(self, rng: random.Random) -> None:
        for process in rng.sample(self.processes, len(self.processes)):
            process.kill()
            time.sleep(rng.choice([0, rng.uniform(0, 0.05)]))
        self.finish()

    def finish(self, seconds: float = PATIENCE) -> list[int | None]:
        """The exit status of each process, None for one that has not ended."""
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def said(self, number: int | None = None) -> str:
        chosen = self.logs if number is None else [self.logs[number]]
        return "\n".join(path.read_text()[-3000:] for path in chosen)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


def losses(workdir: Path) -> dict[int, float]:
    return {row["step"]: row["train/loss"] for row in read_metrics(workdir) if "train/loss" in row}


def lines(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def being_saved(workdir: Path) -> list[str]:
    folder = workdir / "checkpoints"
    return [name for name in os.listdir(folder) if "tmp" in name] if folder.exists() else []


@pytest.mark.parametrize(("processes", "kills"), [(1, 6), (2, 4)])
def test_a_run_killed_at_random_ends_as_one_that_never_stopped(
    index, tmp_path, cache, processes, kills
):
    """Bit for bit; in two processes each holds and saves half of every parameter."""
    layout = {"mesh__fsdp": processes}
    whole = Job(index, tmp_path / "whole", cache, processes=processes, **layout)
    assert whole.finish() == [0] * processes, whole.said()

    rng, workdir = random.Random(processes), tmp_path / "killed"
    during_saves, killed_at = 0, []
    for turn in range(kills):
        job = Job(index, workdir, cache, processes=processes, **layout)
        before = lines(workdir)
        more = rng.randrange(1, 5)
        assert job.wait_for(lambda n=before + more: lines(workdir) >= n), job.said()
        if turn % 2:
            job.wait_for(lambda: bool(being_saved(workdir)))
        time.sleep(rng.uniform(0, 0.03))
        job.kill(rng)
        during_saves += bool(being_saved(workdir))
        killed_at.append(lines(workdir))
        if (workdir / "model").exists():
            break
    print(f"killed {len(killed_at)} times, {during_saves} during a save, at lines {killed_at}")
    assert during_saves >= 2
    assert not (workdir / "model").exists()
    last = Job(index, workdir, cache, processes=processes, **layout)
    assert last.finish() == [0] * processes, last.said()

    ours, theirs = (tmp_path / name for name in ("killed", "whole"))
    weights = [(path / "model" / "model.safetensors").read_bytes() for path in (ours, theirs)]
    assert weights[0] == weights[1]
    assert losses(ours) == losses(theirs)
    rows = [row["step"] for row in read_metrics(ours) if "train/loss" in row]
    assert rows == list(range(2, STEPS + 1, 2))
    kept = sorted(int(p.name) for p in (ours / "checkpoints").iterdir())
    assert {12, 24, 36, 48, 57, 60} <= set(kept)
    assert not being_saved(ours)


def taken(record: Path) -> dict[int, list]:
    """The crops that each step took, by their sums, over all hosts; the last time it was taken."""
    found: dict[tuple[int, int], list] = {}
    for path in sorted(record.parent.glob(f"{record.name}.*")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["step"], row["host"]] = row["sums"]
    steps = sorted({step for step, _ in found})
    return {s: [crop for k in sorted(found) if k[0] == s for crop in found[k]] for s in steps}


def test_other_numbers_of_hosts_devices_and_workers_take_the_same_crops(index, tmp_path, cache):
    """Two processes, one of which is told to stop; then one with four devices and a worker."""
    linear = {"optimizer__name": "sgd", "optimizer__lr": 0.01}
    record = tmp_path / "whole.jsonl"
    whole = Job(index, tmp_path / "whole", cache, record=record, **linear)
    assert whole.finish() == [0], whole.said()

    workdir, stops = tmp_path / "moved", []
    layouts = [
        {"processes": 2, "devices": 1, "mesh__fsdp": 2},
        {"processes": 1, "devices": 4, "data__workers": 1},
        {"processes": 2, "devices": 2, "mesh__fsdp": 4},
    ]
    for turn, layout in enumerate(layouts):
        record = tmp_path / f"moved{turn}.jsonl"
        job = Job(index, workdir, cache, record=record, **layout, **linear)
        if turn < 2:
            goal = lines(workdir) + 8
            assert job.wait_for(lambda n=goal: lines(workdir) >= n), job.said()
            os.kill(job.processes[-1].pid, signal.SIGTERM)
        assert set(job.finish()) == {0}, job.said()
        stops.append(max(int(p.name) for p in (workdir / "checkpoints").iterdir()))
    print(f"stopped after steps {stops}")
    assert 0 < stops[0] < stops[1] < stops[2] == STEPS

    expected, start = taken(tmp_path / "whole.jsonl"), 0
    assert sorted(expected) == list(range(STEPS))
    for turn, stop in enumerate(stops):
        found = taken(tmp_path / f"moved{turn}.jsonl")
        assert min(found) == start
        assert all(found[step] == expected[step] for step in range(start, stop))
        start = stop
    ours, theirs = losses(workdir), losses(tmp_path / "whole")
    assert sorted(ours) == sorted(theirs)
    np.testing.assert_allclose([ours[s] for s in theirs], list(theirs.values()), rtol=1e-4)


@pytest.fixture
def two(index, tmp_path, cache) -> Iterator[Job]:
    """Two processes in the middle of a run that has no end."""
    job = Job(index, tmp_path / "run", cache, processes=2, steps=10**6)
    try:
        assert job.wait_for(lambda: lines(tmp_path / "run") > 4), job.said()
        yield job
    finally:
        for process in job.processes:
            process.kill()
            process.join()


@pytest.mark.parametrize("dead", [0, 1])
def test_a_host_that_dies_ends_the_other_within_a_minute(two, dead):
    two.processes[dead].kill()
    began = time.monotonic()
    two.processes[1 - dead].join(60)
    status = two.processes[1 - dead].exitcode
    print(f"ended with status {status} after {time.monotonic() - began:.1f} s")
    assert status
    said = two.said(1 - dead)
    assert "of them has died" in said or "another task died" in said


def test_a_host_that_freezes_ends_the_other_within_a_minute(two):
    """It is alive for the network, but answers nothing: what a hanging machine looks like."""
    os.kill(two.processes[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    two.processes[0].join(60)
    status = two.processes[0].exitcode
    print(f"ended with status {status} after {time.monotonic() - began:.1f} s")
    assert status
    assert "another task died" in two.said(0)
