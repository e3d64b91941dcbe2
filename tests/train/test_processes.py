"""Two processes of four devices, over gloo, train as one process of eight does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mae_jax.cli.main import main
from mae_jax.networks.saved_model import load_model
from mae_jax.train.metric_writers import read_metrics

DEMO = Path(__file__).parents[2] / "configs" / "demo.py"
TINY = {
    "steps": 3,
    "save_initial_model": False,
    "data.batch": 16,
    "data.validation_crops": 8,
    "optimizer.name": "sgd",  # linear: Lion's signs would blow rounding differences up
    "optimizer.lr": 0.1,
    "mesh.fsdp": 2,
    "mesh.tensor": 2,
    "model.encoder.width": 32,
    "model.encoder.depth": 1,
    "model.encoder.heads": 2,
    "model.decoder.width": 32,
    "log.scalars": 1,
    "log.validation": 3,
    "log.image_every": 3,
}


def start(index: Path, workdir: Path, devices: int, **others: object) -> subprocess.Popen:
    """`mae-jax train` as a job script starts it, with so many simulated devices."""
    words = [f"--config.{key}={value}" for key, value in TINY.items()]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(
        [sys.executable, "-m", "mae_jax.cli.main", "train", "--config", str(DEMO),
         f"--config.data.index={index}", *words, "--workdir", str(workdir)],
        env=environment | {name: str(value) for name, value in others.items()},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    words = ["--experiments", "2", "--plates", "1", "--genes", "4", "--sites", "1"]
    assert main(["synth", "--out", str(tmp_path / "screen"), *words]) == 0
    index = tmp_path / "index.parquet"
    load_data = str(tmp_path / "screen" / "load_data.csv")
    assert main(["index", load_data, "--out", str(index), "--validation", "EXP-2"]) == 0

    one = start(index, tmp_path / "one", 8)
    said = one.communicate(timeout=900)[0]
    assert one.returncode == 0, said
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [
        start(index, tmp_path / "two", 4, JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=2,
              JAX_PROCESS_ID=number)
        for number in range(2)
    ]  # fmt: skip
    for process in both:
        said = process.communicate(timeout=900)[0]
        assert process.returncode == 0, said

    for key in ("train/loss", "train/gradient_norm", "validation/loss"):
        ours, theirs = (
            [row[key] for row in read_metrics(tmp_path / name) if key in row]
            for name in ("two", "one")
        )
        assert len(theirs) in (1, 3)
        np.testing.assert_allclose(ours, theirs, rtol=5e-5, err_msg=key)
    ours, theirs = (load_model(tmp_path / name / "model")[1] for name in ("two", "one"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), ours, theirs)
