"""The launched commands themselves, run by a SLURM of one machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from launch.__main__ import main as launch
from mae_jax.cli.main import main as mae_jax
from mae_jax.train.metric_writers import read_metrics

ROOT = Path(__file__).parent.parent.parent
CONFIG = """
from mae_jax.config import as_config_dict
from mae_jax.networks.mae import DecoderConfig, ParallelViTConfig, MAEConfig
from mae_jax.train import TrainConfig


def get_config():
    encoder = ParallelViTConfig(patch=8, width=32, depth=1, heads=2, crop=16, channels=("DNA",))
    decoder = DecoderConfig(width=32, depth=1, heads=2, cross_heads=2)
    config = as_config_dict(TrainConfig(model=MAEConfig(encoder, decoder)))
    config.data.batch = 4
    config.checkpoint.every = 1000
    config.log.scalars = 1
    config.log.image_every = 1000
    config.steps = 100
    return config
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A home with sbatch, srun and scontrol on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        program = programs / name
        source = Path(__file__).parent / "slurm_cluster.py"
        program.write_text(f"#!{sys.executable}\n{source.read_text()}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("REQUEUED", str(tmp_path / "requeued"))
    monkeypatch.setenv("SLURM_JOB_ID", str(free_job()))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device a process
    return tmp_path


def free_job() -> int:
    """A job whose number leads JAX to a port that is free (jax._src.clusters.slurm_cluster)."""
    for job in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", job % 4096 + 61440)):
                return job
    raise AssertionError("no port is free")


@pytest.fixture
def index(tmp_path) -> Path:
    """Two experiments of two wells."""
    rng = np.random.default_rng(0)
    rows = ["Metadata_Experiment,Metadata_Plate,Metadata_Well,Metadata_Site,"
            "FileName_OrigDNA,PathName_OrigDNA"]  # fmt: skip
    for experiment in ("E1", "E2"):
        for well in ("A01", "A02"):
            name = f"{experiment}-{well}.tiff"
            tifffile.imwrite(tmp_path / name, rng.integers(0, 60000, (24, 24), dtype=np.uint16))
            rows.append(f"{experiment},{experiment}-P1,{well},1,{name},.")
    (tmp_path / "load_data.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "index.parquet"
    assert mae_jax(["index", str(tmp_path / "load_data.csv"), "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_two_processes_stopped_by_the_time_limit_go_on_in_the_next_start(
    cluster, index, monkeypatch
):
    (cluster / "config.py").write_text(CONFIG)
    workdir = cluster / "runs" / "tiny"
    monkeypatch.setenv("SIGNAL_WHEN", str(workdir / "metrics.jsonl"))
    monkeypatch.setenv("SIGNAL_AT", '"step": 5')
    line = (
        f"slurm submit tiny --gpus 2 --time 1:00:00 --venv {sys.prefix} --runs {cluster}/runs "
        f"-- train --config {cluster}/config.py --config.data.index={index}"
    )
    status = launch(line.split())
    log = (cluster / "mae-jax-logs" / "tiny-0.log").read_text()
    assert status == 0, log
    assert log.count("launch: not finished (status 0); requeued") == 1, log
    assert log.count("launch: finished") == 1, log
    assert (workdir / "model" / "config.json").exists()
    steps = [row["step"] for row in read_metrics(workdir) if "train/loss" in row]
    assert steps == list(range(1, 101))  # none lost, none twice


@pytest.mark.slow
def test_the_tasks_of_an_array_embed_all_wells_and_stay_done(cluster, index, monkeypatch):
    line = (
        f"slurm submit screen --gpus 1 --num-tasks 2 --time 1:00:00 --venv {sys.prefix} "
        f"--runs {cluster}/runs -- embed --encoder intensity --index {index} --wells-per-shard 1"
    )
    assert launch(line.split()) == 0
    logs = [(cluster / "mae-jax-logs" / f"screen-{n}.log").read_text() for n in (0, 1)]
    for number, log in enumerate(logs):
        assert f"task {number}/2 (SLURM array)" in log
    out = cluster / "runs" / "screen"
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert len(written) >= 4

    # The same task as a pod of an Indexed Job: nothing is left to do.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    words = ["embed", "--encoder", "intensity", "--index", str(index), "--wells-per-shard", "1",
             "--out", str(out), "--num-tasks", "2"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "mae_jax.cli.main", *words],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task 1/2 (Indexed Job)" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == written
