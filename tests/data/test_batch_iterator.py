"""Failures in worker processes: wrong input or machine failure."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mae_jax.data import crop_batches
from mae_jax.data.batch_iterator import BatchIterator
from mae_jax.data.collate import BatchLoader
from mae_jax.data.mixture import LabelEncoding
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.errors import InputError, MachineError

CRASH = """
import os, sys
from pathlib import Path
from mae_jax.data import crash_log
crash_log.enable(Path(sys.argv[1]))
with crash_log.track_open_file("plate/a1.tiff"):
    os.kill(os.getpid(), int(sys.argv[2]))
"""


def _after_crash(folder: Path, number: int) -> BatchIterator:
    """The iterator after a worker that had a file open was ended by a signal."""
    ended = subprocess.run([sys.executable, "-c", CRASH, str(folder), str(number)], check=False)
    assert ended.returncode == -number

    def batches() -> Iterator[None]:
        raise RuntimeError(f"Worker process was terminated unexpectedly with exit code {-number}.")
        yield

    none = LabelEncoding((), ())
    return BatchIterator(
        batches(),
        datasets=(),
        labels=none,
        plates=none,
        sites=1,
        start_step=0,
        max_unreadable_fraction=0.01,
        crash_log=folder,
        loader=BatchLoader([], [], 1),
    )


def test_a_crashed_decoder_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plate/a1.tiff crashed the process.*SIGSEGV"):
        next(_after_crash(tmp_path, signal.SIGSEGV))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_blames_no_image(tmp_path: Path, number: int) -> None:
    with pytest.raises(MachineError, match=signal.Signals(number).name) as error:
        next(_after_crash(tmp_path, number))
    assert "a1.tiff" not in str(error.value)


def test_a_worker_killed_for_real(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    batches = crop_batches(
        index, crop=16, batch=12, seed=0, split=None, workers=1, prefetch_bytes=1
    )
    next(batches)
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(MachineError, match=r"killed \(SIGKILL\), probably out of memory"):
        list(itertools.islice(batches, 200))
    batches.close()
    assert not multiprocessing.active_children()
