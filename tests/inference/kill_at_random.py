"""Runs an embedding job in processes that are killed at random; a script for test_kills.py.

usage: kill_at_random.py INDEX OUT KILLS SEED

Two processes work at once, each on a slice of a random partition. Each is killed by SIGKILL after
it has finished a few shards and a random moment more. Prints how many were killed.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from mae_jax.data.index import Index
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import ShardFiles
from mae_jax.encoders.baselines import RandomEncoder
from mae_jax.inference import embed_index

WELLS_PER_SHARD = 2


def work(index: str, out: str, task: str) -> None:
    """The job, with pauses where a kill would hurt most: around writing and renaming."""
    write, commit = ShardFiles.write, OutputStore.commit

    def slow_write(*args: object, **options: object) -> None:
        time.sleep(0.02)
        write(*args, **options)  # type: ignore[arg-type]
        time.sleep(0.01)

    def slow_commit(self: OutputStore, path: Path, name: str) -> None:
        time.sleep(0.01)
        commit(self, path, name)
        time.sleep(0.01)

    ShardFiles.write, OutputStore.commit = slow_write, slow_commit  # type: ignore[assignment, method-assign]
    embed_index(
        RandomEncoder(features=4, crop=8),
        Index.read(index),
        out,
        batch_size=4,
        wells_per_shard=WELLS_PER_SHARD,
        task=task,
        save_crops=True,
        progress=False,
    )


def start(index: str, out: str, rng: random.Random) -> int:
    count = rng.choice([1, 2, 3])
    task = f"{rng.randrange(count)}/{count}"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(index, out, task)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def alive(pid: int) -> bool:
    done, status = os.waitpid(pid, os.WNOHANG)
    if done and status:
        sys.exit(f"a worker failed with status {status}")
    return not done


def main(index: str, out: str, kills: int, seed: int) -> int:
    """Kills `kills` workers, then lets one finish; returns how many were killed."""
    rng = random.Random(seed)
    folder = Path(out) / "_shards"
    killed, turns = 0, 0
    running: list[int] = []
    while killed < kills and turns < 5 * kills:
        turns += 1
        while len(running) < 2:
            running.append(start(index, out, rng))
        before = len(list(folder.glob("*"))) if folder.exists() else 0
        more = rng.randrange(4)
        deadline = time.monotonic() + 30
        victim = running.pop(rng.randrange(2))
        living = True
        while living and time.monotonic() < deadline:
            living = alive(victim)
            if folder.exists() and len(list(folder.glob("*"))) >= before + more:
                break
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        if living and alive(victim):
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            killed += 1
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        killed += 1
    return killed


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
