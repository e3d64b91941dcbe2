"""The demo: every step on a synthetic screen, with the commands for a real screen."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mae_jax.errors import INTERRUPTED, MACHINE, InputError, MachineError
from mae_jax.files import read_json, write_json
from mae_jax.report.page import UNSEEN, Sources, verdict, write_report
from mae_jax.report.summary import write_record
from mae_jax.synth.config import ScreenConfig

# Many small fields, since a correction of batch effects needs wells. There are about twice as many
# controls as the embedding has features, so that their covariance is well determined, and 96 known
# pairs, so that one recall is sure to about 0.05.
SCREEN = ["--genes", "72", "--complex-size", "4", "--wells-per-gene", "3", "--controls", "52",
          "--image-size", "128", "--phenotype-strength", "3"]  # fmt: skip

# A tenth of the work, for a check that everything runs.
QUICK = {
    "synth": ["--experiments", "2", "--plates", "1", "--genes", "24", "--image-size", "128"],
    "train": ["--config.steps=60", "--config.log.scalars=20", "--config.log.validation=60",
              "--config.log.image_every=60", "--config.checkpoint.every=60"],
}  # fmt: skip


def demo(
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    quick: bool = False,
    quiet: bool = False,
    record: str | Path | None = None,
) -> Path:
    """Render, train, embed, correct, evaluate and report; returns the report's path.

    Steps whose output exists are skipped, so an interrupted demo resumes.

    Args:
      out: the folder of all output: of the first seed directly, of others in `seed-N/`.
      seeds: one screen and one network per seed.
      quick: a small screen and a short training, which do not learn much.
      quiet: no progress bars and no notes of the commands.
      record: a folder for the tables of all seeds and the first seed's images.
    """
    out = Path(out)
    runs = [Run(out if i == 0 else out / f"seed-{seed}", seed, quick, quiet=quiet) for i, seed in
            enumerate(seeds)]  # fmt: skip
    for run in runs:
        run.go()
    first = runs[0]
    evaluations = {run.seed: run.folder / "evaluation" for run in runs}
    pictures = sorted((first.folder / "pictures").glob("triplets*.png"))
    sources = Sources(
        train=first.folder / "train",
        evaluation=evaluations[first.seed],
        reconstructions=pictures,
        crops_shown=UNSEEN,  # the validation split is the last experiment
        complexes=first.folder / "screen" / "complexes.csv",
        commands=first.history(),
        seeds=evaluations if len(runs) > 1 else {},
    )
    report = write_report(out / "report.html", sources, "A synthetic Cell Painting screen")
    for seed, evaluation in evaluations.items():
        print(f"seed {seed}: {verdict(evaluation)}")
    if record is not None:
        words = ["mae-jax", "demo", "--seeds", ",".join(map(str, seeds)), *["--quick"] * quick]
        picture = pictures[0] if pictures else None
        write_record(record, evaluations, shlex.join(words), picture)
    return report


def dry_run(out: str | Path, *, seeds: Sequence[int] = (0,), quick: bool = False) -> list[str]:
    """The commands of a demo that has not begun, in order; nothing is run or written."""
    lines: list[str] = []
    for number, seed in enumerate(seeds):
        folder = Path(out) if number == 0 else Path(out) / f"seed-{seed}"
        Run(folder, seed, quick, run_line=lambda argv: lines.append(_line(argv))).go()
    return lines


class Run:
    """One seed of the demo, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        quick: bool,
        run_line: Callable[[list[str]], None] | None = None,
        quiet: bool = False,
    ) -> None:
        self.folder, self.seed, self.quick = folder, seed, quick
        self.quiet = quiet
        self._run_line = run_line or self._execute

    def go(self) -> None:
        """Run all commands in order; each skips work that is done."""
        at, seed = self.folder, str(self.seed)
        quick = QUICK if self.quick else {"synth": SCREEN, "train": []}
        self._run("synth", "--out", at / "screen", "--seed", seed, *quick["synth"])
        index = at / "index.parquet"
        if not index.exists():
            last = f"EXP-{2 if self.quick else ScreenConfig.experiments}"
            self._run("index", at / "screen" / "load_data.csv", "--out", index,
                      "--validation", last, "--check")  # fmt: skip
        self._run("train", "--config", "demo", f"--config.data.index={index}",
                  f"--config.seed={seed}", *quick["train"], "--workdir", at / "train")  # fmt: skip
        encoders: dict[str, str | Path] = {
            "trained": at / "train" / "model",
            "untrained": at / "train" / "untrained",
            "intensity": "intensity",
            "random": "random",
        }
        for name, encoder in encoders.items():
            self._run("embed", "--encoder", encoder, "--index", index, "--pooling", "channel",
                      "--crop", "64", "--out", at / "embeddings" / name)  # fmt: skip
        folders = [str(at / "embeddings" / name) for name in encoders]
        self._run("correct", "--embeddings", folders[0], "--method", "tvn",
                  "--out", at / "corrected.parquet", "--overwrite")  # fmt: skip
        self._run("evaluate", "recall", "--embeddings", ",".join(folders), "--relationships",
                  at / "screen" / "relationships.csv", "--corrections", "all",
                  "--by", "Metadata_Gene", "--out", at / "evaluation", "--overwrite")  # fmt: skip
        self._run("reconstruct", "--encoder", at / "train" / "model", "--index", index,
                  "--split", "validation", "--out", at / "pictures", "--overwrite")  # fmt: skip

    def _run(self, command: str, *words: str | Path) -> None:
        self._run_line([command, *map(str, words)])

    def _execute(self, argv: list[str]) -> None:
        from mae_jax.cli.main import main

        line = _line(argv)
        print(f"\n$ {line}", flush=True)
        began = time.monotonic()
        status = main([*argv, *["--quiet"] * self.quiet])
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status:
            error_type = MachineError if status == MACHINE else InputError
            raise error_type(f"the demo stopped, since `{line}` failed.")
        # A command that finds its output complete takes no time: the first duration is kept.
        timings = self._timings()
        timings.setdefault(line, time.monotonic() - began)
        write_json(self.folder / "timings.json", timings)

    def _timings(self) -> dict[str, float]:
        path = self.folder / "timings.json"
        return read_json(path) if path.exists() else {}

    def history(self) -> list[tuple[str, float | None]]:
        """The commands of this run with their seconds, in order."""
        return list(self._timings().items())


def _line(argv: Sequence[str]) -> str:
    return shlex.join(["mae-jax", *argv])
