"""Writers of metrics and images: JSON lines, TensorBoard, Weights & Biases."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing
from mae_jax.train.throughput import BEGAN

METRICS = "metrics.jsonl"


class MetricWriter:
    """The interface of a writer; this one writes nothing."""

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes named numbers of one step."""

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Writes an image of one step."""

    def close(self) -> None:
        """Flushes and closes files."""


class NoopWriter(MetricWriter):
    """Writes nothing: the writer of all hosts but the first."""


class MultiWriter(MetricWriter):
    """Writes with several writers."""

    def __init__(self, writers: Sequence[MetricWriter]) -> None:
        self._writers = writers

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, values)

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        for writer in self._writers:
            writer.write_image(step, name, image)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class JsonlWriter(MetricWriter):
    """Writes `metrics.jsonl` and `panels/step_STEP.png` in a work folder.

    A run that resumes from step `start` drops the rows that an earlier, interrupted part wrote
    beyond it, so that every step has one row. The first row holds the time of the first start.
    """

    def __init__(self, workdir: Path, start: int) -> None:
        self._images = workdir / "panels"
        path = workdir / METRICS
        is_new = not path.exists()
        if not is_new:
            with replacing(path) as tmp_path:
                tmp_path.write_text("".join(_lines_until(path, start)), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        if is_new:
            self._write({"step": start, BEGAN: time.time()})

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **{name: float(value) for name, value in values.items()}})

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        prefix = "" if name == "reconstruction" else f"{name}_"
        with replacing(self._images / f"{prefix}step_{step:07d}.png") as tmp_path:
            Image.fromarray(image).save(tmp_path)

    def close(self) -> None:
        self._file.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


class TensorBoardWriter(MetricWriter):
    """Writes event files in `tensorboard/` in a work folder."""

    def __init__(self, workdir: Path, start: int) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._board.close()


class WandbWriter(MetricWriter):
    """Writes to a project of Weights & Biases; one run per work folder, however often started.

    Raises:
      InputError: the package is not installed.
    """

    def __init__(self, workdir: Path, project: str) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError(
                "log.wandb needs the package wandb; install mae_jax[wandb], or leave it empty."
            ) from None
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            name=workdir.name,
            id=hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(workdir),
            config=read_json(workdir / "config.json"),
        )

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def write_image(self, step: int, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self) -> None:
        self._run.finish()


def make_writer(workdir: Path, start: int, wandb: str = "") -> MetricWriter:
    """The writers of a run on this host, which starts at step `start`.

    Args:
      wandb: a project of Weights & Biases; "" for none.
    """
    if jax.process_index() != 0:
        return NoopWriter()
    writers: list[MetricWriter] = [WandbWriter(workdir, wandb)] if wandb else []
    return MultiWriter([JsonlWriter(workdir, start), TensorBoardWriter(workdir, start), *writers])


def read_metrics(workdir: str | Path, until: int | None = None) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl` up to step `until`, in order of writing; [] if none.

    Lines that are damaged are left out.
    """
    path = Path(workdir) / METRICS
    return [json.loads(line) for line in _lines_until(path, until)] if path.exists() else []


def _lines_until(path: Path, step: int | None) -> list[str]:
    """The undamaged lines of the file whose step is at most `step`."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            continue
        if step is None or row["step"] <= step:
            lines.append(line + "\n")
    return lines
