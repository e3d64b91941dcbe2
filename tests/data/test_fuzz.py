"""Mutated files of every format: one sentence or pixels, in bounded time and memory.

The bound: what the process had mapped before, twice the limit of decoded bytes, and half a GiB.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FORMATS = ["tiff", "tiff pages", "png", "jp2", "npy", "zarr2", "zarr3", "plate", "array_record",
           "parquet", "csv", "index"]  # fmt: skip
ROOT = Path(__file__).parents[2]


def _fuzz(name: str, count: int, folder: Path) -> dict[str, float]:
    child = [sys.executable, str(Path(__file__).with_name("fuzz_child.py"))]
    ended = subprocess.run(
        [*child, name, str(count), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    result = _fuzz(name, 1000, tmp_path)
    assert result["refused"] > (100 if name == "csv" else 600)  # the mutations do harm
    assert result["longest"] < 5


@pytest.mark.parametrize("name", ["tiff", "index"])
def test_a_few_mutated_files(name: str, tmp_path: Path) -> None:
    assert _fuzz(name, 60, tmp_path)["refused"] > 30
