"""What a run writes about itself: scalars as JSON lines and for TensorBoard, and pictures."""

import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from mae_jax.files import replacing


class Records:
    """Writes `metrics.jsonl`, `tensorboard/` and `panels/` in a work folder.

    A run that goes on from step `start` drops the lines that an earlier, interrupted part wrote
    beyond it, so that every step stands once.
    """

    def __init__(self, workdir: Path, start: int) -> None:
        self._panels = workdir / "panels"
        path = workdir / "metrics.jsonl"
        if path.exists():
            with replacing(path) as beside:
                beside.write_text("".join(_lines_until(path, start)), encoding="utf-8")
        self._lines: TextIO = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes named numbers of one step."""
        row = {"step": step, **{name: float(value) for name, value in values.items()}}
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(name, float(value), step)

    def panel(self, step: int, picture: np.ndarray) -> None:
        """Writes a picture (height, width, 3; uint8) of one step."""
        with replacing(self._panels / f"step_{step:07d}.png") as beside:
            Image.fromarray(picture).save(beside)
        self._board.add_image("reconstruction", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._lines.close()
        self._board.close()


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, in order of writing."""
    path = Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in _lines_until(path, None)]


def _lines_until(path: Path, step: int | None) -> list[str]:
    """The whole lines of the file whose step is at most `step`; a torn last line is dropped."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if step is None or row["step"] <= step:
            kept.append(line)
    return kept
