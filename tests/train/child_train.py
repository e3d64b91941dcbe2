"""`mae-jax train` in a process of its own; test_kills.py starts it with the dict `JOB`.

It is forked from a server that has imported everything, which saves most of a start.
"""

import atexit
import json
import os
from collections.abc import Generator
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.cli.config_file import load_config
from mae_jax.cli.main import main
from mae_jax.config import from_dict
from mae_jax.distributed.initialize import initialize
from mae_jax.distributed.mesh import make_mesh
from mae_jax.networks.registry import make_task
from mae_jax.train import TrainConfig, Trainer
from mae_jax.train.train_data import DeviceBatch, TrainData


class RecordedData:
    """The crops of a config; every batch becomes a line of a file: step, host, sums of pixels."""

    def __init__(self, config: TrainConfig, path: str) -> None:
        mesh = make_mesh(config.mesh)
        self._data = TrainData(config, make_task(config.model, config.data.crop), mesh)
        self._path = f"{path}.{jax.process_index()}"

    def training(self, start: int) -> Generator[DeviceBatch, None, None]:
        batches = self._data.training(start)
        with open(self._path, "a", encoding="utf-8") as file:
            try:
                for step, ready in enumerate(batches, start):
                    shards = ready.batch["pixels"].addressable_shards
                    shards = sorted(shards, key=lambda shard: shard.index[0].start or 0)
                    sums = [np.asarray(s.data).sum((1, 2, 3), dtype=int).tolist() for s in shards]
                    line = {"step": step, "host": jax.process_index(), "sums": list(chain(*sums))}
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    yield ready
            finally:
                batches.close()

    def validation(self) -> list[DeviceBatch]:
        return self._data.validation()


def train_recorded(config: str, workdir: str, overrides: list[str], path: str) -> int:
    """What `mae-jax train` does, with data that are recorded."""
    values = from_dict(TrainConfig, load_config(config, overrides).to_dict())
    initialize()
    Trainer(values, workdir=Path(workdir), data=RecordedData(values, path)).fit()
    return 0


if __name__ == "__main__":
    job: dict[str, Any] = globals()["JOB"]  # set by runpy
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("XLA_FLAGS", None)
    os.environ |= job["environment"]
    for name, value in job["jax"].items():
        jax.config.update(name, value)
    if job["record"]:
        status = train_recorded(job["config"], job["workdir"], job["overrides"], job["record"])
    else:
        words = ["--config", job["config"], "--workdir", job["workdir"], *job["overrides"]]
        status = main(["train", *words])
    atexit._run_exitfuncs()  # the processes take leave of each other, as at any other exit
    os._exit(status)
