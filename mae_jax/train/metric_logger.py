"""What a run writes about itself: scalars as JSON lines for TensorBoard and W&B, and pictures."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing


class Records:
    """Writes `metrics.jsonl`, `tensorboard/` and `panels/` in a work folder, and for W&B.

    A run that goes on from step `start` drops the lines that an earlier, interrupted part wrote
    beyond it, so that every step stands once. The first line of all tells when the run began.

    Args:
      wandb: a project of Weights & Biases, or "" for none.

    Raises:
      InputError: `wandb` is given and the package is not installed.
    """

    def __init__(self, workdir: Path, start: int, wandb: str = "") -> None:
        self._wandb = _wandb_run(wandb, workdir) if wandb else None
        self._panels = workdir / "panels"
        path = workdir / "metrics.jsonl"
        began = not path.exists()
        if not began:
            with replacing(path) as beside:
                beside.write_text("".join(_lines_until(path, start)), encoding="utf-8")
        self._lines: TextIO = path.open("a", encoding="utf-8")
        if began:
            self._write({"step": start, "run/began": time.time()})
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes named numbers of one step."""
        values = {name: float(value) for name, value in values.items()}
        self._write({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def _write(self, row: dict[str, Any]) -> None:
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()

    def panel(self, step: int, picture: np.ndarray) -> None:
        """Writes a picture (height, width, 3; uint8) of one step."""
        with replacing(self._panels / f"step_{step:07d}.png") as beside:
            Image.fromarray(picture).save(beside)
        self._board.add_image("reconstruction", picture, step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({"reconstruction": wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`, in order of writing."""
    path = Path(workdir) / "metrics.jsonl"
    return [json.loads(line) for line in _lines_until(path, None)]


def history(workdir: Path, start: int) -> list[dict[str, Any]]:
    """The rows that earlier parts of a run wrote, up to step `start`; [] where there are none."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in _lines_until(path, start)] if path.exists() else []


def _wandb_run(project: str, workdir: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise InputError(
            "log.wandb needs the package wandb; install mae_jax[wandb], or leave log.wandb empty."
        ) from None
    # One run for one work folder, however often it is started.
    return wandb.init(
        project=project,
        name=workdir.name,
        id=hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16],
        resume="allow",
        dir=str(workdir),
        config=read_json(workdir / "config.json"),
    )


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
