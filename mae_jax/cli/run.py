"""`mae-jax run`: the whole way from a folder of images to corrected embeddings and a page."""

import argparse
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae_jax.cli.option_types import comma_list
from mae_jax.cli.outputs import add_dry_run
from mae_jax.cli.reading_options import add_reading_options, open_sources, reading_words
from mae_jax.config import nearest
from mae_jax.errors import INTERRUPTED, MACHINE, InputError, MachineError

if TYPE_CHECKING:
    from mae_jax.data.index import Index

HELP = "run the whole way: index, check, embed, correct, view, report, in one work folder"
EXAMPLE = """\
  mae-jax run plate --encoder openphenom --out work/plate
  mae-jax run plate --encoder runs/mine/model --out work/plate --metadata platemap.csv \\
      --controls Compound=DMSO
  mae-jax run plate --encoder intensity --out work/plate --dry-run
Every step's command is printed and can be run by hand. After any interruption, the same command
does what is not yet done."""

NEGATIVE_CONTROLS = "Metadata_ControlType=negcon"
_DEFAULT_CONTROLS = 16  # per experiment
_STANDARDIZE_CONTROLS = 4  # per plate
_RECORD = "run.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add = parser.add_argument
    add_reading_options(parser)
    encoder = "an encoder: a name of `mae-jax models`, a saved model, a run, intensity or random"
    add("--encoder", required=True, metavar="PATH_OR_NAME", help=encoder)
    add("--out", required=True, type=Path, metavar="FOLDER", help="the work folder")
    controls = "which wells are negative controls (default: Metadata_ControlType=negcon)"
    add("--controls", metavar="COLUMN=VALUE", help=controls)
    method = (
        "a correction of batch effects as for `mae-jax correct`, or none (default: that of "
        f"`mae-jax correct` with at least {_DEFAULT_CONTROLS} controls per experiment, "
        f"standardize-plate with {_STANDARDIZE_CONTROLS} "
        "per plate, center-plate with one per plate)"
    )
    add("--method", metavar="NAME", help=method)
    group = parser.add_argument_group("embedding (see `mae-jax embed --help`)")
    group.add_argument("--channels", type=comma_list, action="extend", metavar="NAME[=CHANNEL],…")
    group.add_argument("--recipe", metavar="NAME")
    group.add_argument("--pooling", choices=("class", "mean", "channel", "attention"))
    group.add_argument("--dtype", choices=("float32", "bfloat16"))
    group.add_argument("--crop", type=int)
    group.add_argument("--batch-size", type=int)
    view = "open the viewer at the end instead of printing its command"
    add("--view", action="store_true", help=view)
    add_dry_run(parser)
    overwrite = "redo from the first step whose command has changed"
    add("--overwrite", action="store_true", help=overwrite)


@dataclass(frozen=True)
class Step:
    """One command of a run.

    Attributes:
      name: of the step.
      words: the command line without `mae-jax`.
      output: what it writes.
      may_fail: wrong input ends the step, not the run: it has listed what is wrong.
    """

    name: str
    words: tuple[str, ...]
    output: Path
    may_fail: bool = False

    @property
    def line(self) -> str:
        """The command line, to copy and paste."""
        return shlex.join(["mae-jax", *self.words])


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Plan the steps, and do those that are not done yet."""
    from mae_jax import locks
    from mae_jax.data.index import Index

    folder, index_path = args.out, args.out / "index.parquet"
    first = Step("index", ("index", *reading_words(args), "--out", str(index_path)), index_path)
    if args.dry_run:
        _, index = open_sources(args)
        steps, note = [first, *_steps(args, index)[0]], _steps(args, index)[1]
        for step in steps:
            print(f"$ {step.line}")
        print(f"$ {_view_line(args, steps)}")
        if note:
            print(note)
        print("nothing was written")
        return {"dry_run": True, "commands": [step.line for step in steps]}
    folder.mkdir(parents=True, exist_ok=True)
    with locks.hold(folder, "run"):
        record = _Record(folder / _RECORD, args.overwrite)
        record.do(first)
        steps, note = _steps(args, Index.read(index_path))
        for step in steps:
            if step.name == "report" and note:
                print(f"\n{note}")
            record.do(step)
    view = _view_line(args, [first, *steps])
    print(f"\nto look at the wells, their images and neighbors:\n$ {view}")
    print(f"\nthe page of this run: {steps[-1].output}")
    if args.view:
        _main(shlex.split(view)[1:])
    return {"out": folder, "page": steps[-1].output, "view": view,
            "commands": [step.line for step in [first, *steps]]}  # fmt: skip


def _steps(args: argparse.Namespace, index: "Index") -> tuple[list[Step], str]:
    """The steps after the index, and a sentence on a correction that is left out, or ""."""
    folder = args.out
    index_path, check = str(folder / "index.parquet"), folder / "check.csv"
    embeddings, corrected = folder / "embeddings", folder / "corrected.parquet"
    embed = ["embed", "--encoder", args.encoder, "--index", index_path, "--out", str(embeddings)]
    for name in ("channels", "recipe", "pooling", "dtype", "crop", "batch_size"):
        value = getattr(args, name)
        if value is not None:
            text = ",".join(value) if isinstance(value, list) else str(value)
            embed += [f"--{name.replace('_', '-')}", text]
    steps = [
        Step("check", ("index", index_path, "--check", "--report", str(check)), check, True),
        Step("embed", tuple(embed), embeddings / "_manifest.json"),
    ]
    report = ["report", "--embeddings", str(embeddings), "--index", index_path, "--check",
              str(check), "--out", str(folder / "report.html")]  # fmt: skip
    controls, method, note = choose_correction(index, args.controls, args.method)
    if method is not None:
        words = ["correct", "--embeddings", str(embeddings), "--method", method]
        words += ["--controls", controls, "--out", str(corrected)]
        steps.append(Step("correct", tuple(words), corrected))
        report += ["--corrected", str(corrected), "--controls", controls]
    steps.append(Step("report", tuple(report), folder / "report.html"))
    return steps, note


def choose_correction(
    index: "Index", controls: str | None, method: str | None
) -> tuple[str, str | None, str]:
    """Which wells are controls (COLUMN=VALUE), and the correction that they suffice for.

    Args:
      index: the screen.
      controls: as the user names them; None for `NEGATIVE_CONTROLS`.
      method: as the user names it, or 'none'; None to choose by the number of controls.

    Returns: the controls, the method or None for no correction, and then a sentence why.

    Raises:
      InputError: the index has no such column or value, or there is no such method.
    """
    from mae_jax.evaluation.correction_spec import DEFAULT, steps_of

    if method not in (None, "none"):
        steps_of(method)  # the error names what is wrong
    wells = index.wells()
    column, equals, value = (controls or NEGATIVE_CONTROLS).partition("=")
    if not equals:
        raise InputError(f"--controls takes COLUMN=VALUE, not '{controls}'.")
    column = column if column.startswith("Metadata_") else f"Metadata_{column}"
    if column not in wells.columns:
        known = [name for name in wells.columns if name.startswith("Metadata_")]
        raise InputError(f"the index has no column '{column}': {nearest(column, known)}")
    is_control = wells[column] == value
    if controls is not None and not is_control.any():
        values = ", ".join(repr(v) for v in wells[column].unique()[:5])
        raise InputError(f"no well has {column} = '{value}'; its values are {values}.")
    named = f"{column}={value}"
    if method == "none":
        return named, None, "the correction of batch effects is left out, as --method says."
    if not is_control.any():
        return named, None, (
            "no well is named as a negative control, so batch effects are not corrected; name "
            "the controls with --controls COLUMN=VALUE, such as --controls Compound=DMSO."
        )  # fmt: skip
    if method is not None:
        return named, method, ""
    by_plate = is_control.groupby([wells["Metadata_Experiment"], wells["Metadata_Plate"]]).sum()
    by_experiment = is_control.groupby(wells["Metadata_Experiment"]).sum()
    if by_experiment.min() >= _DEFAULT_CONTROLS:
        return named, DEFAULT, ""
    if by_plate.min() >= _STANDARDIZE_CONTROLS:
        return named, "standardize-plate", ""
    if by_plate.min() >= 1:
        return named, "center-plate", ""
    lacking = by_plate.index[by_plate.to_numpy() == 0][0][1]
    return named, None, (
        f"plate {lacking} has no negative controls, so batch effects are not corrected; add "
        "--method NAME to choose a correction for the others."
    )  # fmt: skip


def _view_line(args: argparse.Namespace, steps: list[Step]) -> str:
    """The command of the viewer, with the embeddings that the last correction has written."""
    corrected = [step.output for step in steps if step.name == "correct"]
    shown = corrected[0] if corrected else args.out / "embeddings"
    words = ["mae-jax", "view", "--embeddings", str(shown), "--index"]
    return shlex.join([*words, str(args.out / "index.parquet")])


class _Record:
    """What a work folder holds: the commands that are done, with their seconds."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        from mae_jax.files import read_json

        self.path, self.overwrite = path, overwrite
        self.steps: dict[str, dict[str, Any]] = read_json(path)["steps"] if path.exists() else {}
        self.redo = False  # this step and all after it

    def do(self, step: Step) -> None:
        """Run a step, unless it is done.

        Raises:
          InputError: the step failed, or was done by another command.
          MachineError: the machine failed.
        """
        from mae_jax.files import write_json

        done = self.steps.get(step.name)
        print(f"\n$ {step.line}", flush=True)
        if done is not None and done["command"] != step.line and not self.redo:
            if not self.overwrite:
                raise InputError(
                    f"{self.path.parent} has the step {step.name} of another command "
                    f"(`{done['command']}`); add --overwrite to redo it, or choose another --out."
                )
            self.redo = True
        if done is not None and not self.redo and step.output.exists():
            print(f"done before, in {done['seconds']:.0f} s")
            return
        if self.redo:
            for name in list(self.steps)[list(self.steps).index(step.name) :] if done else []:
                self.steps.pop(name)
            write_json(self.path, {"steps": self.steps})
        # An embedding resumes what is there; the others write their output anew.
        resumes = step.name == "embed" and not (self.redo and done is not None)
        began = time.monotonic()
        status = _main([*step.words, *([] if resumes else ["--overwrite"])])
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status and (status == MACHINE or not step.may_fail):
            error_type = MachineError if status == MACHINE else InputError
            raise error_type(f"the step {step.name} failed, as said above: `{step.line}`.")
        if status:
            print("the run goes on: wells that cannot be read are left out")
        self.steps[step.name] = {"command": step.line, "seconds": time.monotonic() - began}
        write_json(self.path, {"steps": self.steps})


def _main(argv: list[str]) -> int:
    from mae_jax.cli.main import main

    return main(argv)
