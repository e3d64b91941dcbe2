"""`mae-jax train` in a process of its own; test_kills.py starts it with the dict `JOB`.

It is forked from a server that has imported everything, which saves most of a start.
"""

import atexit
import json
import os
from collections.abc import Iterator
from typing import Any

import jax

from mae_jax.cli.main import main
from mae_jax.train import train_data as batches

JOB: dict[str, Any] = globals()["JOB"]  # given by the process that runs this file


def record(path: str) -> None:
    """Every batch that is taken becomes a line of `path`: step, host, rows, sums of pixels."""
    real = batches.crop_batches

    class Recorded:
        def __init__(self, start: int, found: Any) -> None:
            self.step, self.found = start, found
            self.file = open(f"{path}.{jax.process_index()}", "a", encoding="utf-8")  # noqa: SIM115

        def __iter__(self) -> Iterator[dict[str, Any]]:
            for batch in self.found:
                line = {
                    "step": self.step,
                    "host": jax.process_index(),
                    "rows": batch["row"].tolist(),
                    "sums": batch["pixels"].sum((1, 2, 3), dtype=int).tolist(),
                }
                self.file.write(json.dumps(line) + "\n")
                self.file.flush()
                self.step += 1
                yield batch

        def close(self) -> None:
            self.file.close()
            self.found.close()

    def crop_batches(*words: Any, start_step: int = 0, **options: Any) -> Recorded:
        return Recorded(start_step, real(*words, start_step=start_step, **options))

    batches.crop_batches = crop_batches  # type: ignore[assignment]


if __name__ == "__main__":
    log = os.open(JOB["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.pop("XLA_FLAGS", None)
    os.environ |= JOB["environment"]
    for name, value in JOB["jax"].items():
        jax.config.update(name, value)
    if JOB["record"]:
        record(JOB["record"])
    status = main(["train", *JOB["words"]])
    atexit._run_exitfuncs()  # the processes take leave of each other, as at any other exit
    os._exit(status)
