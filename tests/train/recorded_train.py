"""`mae-jax train` that also writes which sites each step took; a script for the tests.

usage: recorded_train.py RECORD ARGUMENTS... with the arguments of `mae-jax train`.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import jax

from mae_jax.cli.main import main
from mae_jax.train import batches


def recorded(path: str) -> None:
    """Every batch that is taken becomes a line of `path`: step, host, rows, sum of pixels."""
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
    recorded(sys.argv[1])
    sys.exit(main(["train", *sys.argv[2:]]))
