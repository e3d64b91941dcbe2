"""The launched run: a command of mae-jax whose output folder follows from the run's name."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mae_jax.errors import PREEMPTED, InputError

# Options of mae-jax that the launcher sets.
_LAUNCHER_OPTIONS = {
    "train": ("--workdir", "--distributed", "--preempted-exit-code"),
    "embed": ("--out", "--task", "--num-tasks"),
}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: also of the job, its pods and its folder.
      folder: output folder; a run submitted again under the same name resumes from it.
      argv: the command, after `mae-jax`.
      num_tasks: tasks of an embedding; 0 for a training.
      environment: variables of its processes.
    """

    name: str
    folder: str
    argv: tuple[str, ...]
    num_tasks: int
    environment: dict[str, str]

    @property
    def is_training(self) -> bool:
        return self.num_tasks == 0


def positive_int(text: str) -> int:
    """An integer of at least 1, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer of at least 1")
    return int(text)


def check_name(name: str) -> str:
    """`name`, if Kubernetes, Google Cloud and SLURM all accept it.

    Raises:
      InputError: it is no such name.
    """
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise InputError(
            f"'{name}' cannot name a run; use at most 40 lower-case letters, digits and hyphens, "
            "with a letter first and no hyphen last."
        )
    return name


def make_run(
    name: str,
    root: str,
    argv: Sequence[str],
    *,
    num_tasks: int | None,
    environment: Sequence[str],
    uses_preempted_exit_code: bool,
) -> Run:
    """The run that the command line asks for.

    Args:
      root: the folder of all runs, as the run's machines see it.
      argv: the command, `train …` or `embed …`.
      num_tasks: tasks of an embedding.
      environment: NAME=VALUE, as given.
      uses_preempted_exit_code: whether a preempted training ends with the status `PREEMPTED`,
        rather than 0, which would mean that the run is finished.

    Raises:
      InputError: the command cannot be launched, or sets what the launcher sets.
    """
    words = list(argv)
    if words[:1] == ["mae-jax"]:
        del words[0]
    if not words or words[0] not in _LAUNCHER_OPTIONS:
        raise InputError(
            "no command; write `train …` or `embed …` after --, "
            "such as: -- train --config configs/demo.py --config.data.index=/data/index.parquet"
        )
    for word in words:
        if word.split("=")[0] in _LAUNCHER_OPTIONS[words[0]]:
            raise InputError(
                f"{word.split('=')[0]} is set by the launcher (the folder is --runs/NAME); leave "
                "it out."
            )
    folder = f"{root.rstrip('/')}/{check_name(name)}"
    is_url = "://" in root
    if not is_url and not root.startswith("/"):
        raise InputError(f"--runs {root} is relative; give the absolute path on all machines.")
    if words[0] == "train":
        if is_url:
            raise InputError(
                f"--runs {root} is a URL; a training needs a folder that all its machines mount."
            )
        if num_tasks is not None:
            raise InputError("--num-tasks is for embed; a training is sharded by its config.mesh.")
        words += ["--workdir", folder, "--distributed"]
        words += ["--preempted-exit-code", str(PREEMPTED)] * uses_preempted_exit_code
    else:
        if num_tasks is None:
            raise InputError("--num-tasks is missing; embed needs the number of its tasks.")
        words += ["--out", folder, "--num-tasks", str(num_tasks)]
    variables = _parse_environment(environment)
    return Run(check_name(name), folder, tuple(words), num_tasks or 0, variables)


def check_shared(run: Run, mounts: Sequence[str], option: str) -> None:
    """Refuses a folder that would be lost with the container that wrote it.

    Args:
      mounts: paths mounted in the containers.
      option: the option that mounts more.

    Raises:
      InputError: the run's folder lies in none of `mounts`, and is no URL.
    """
    inside = any(run.folder.startswith(f"{path.rstrip('/')}/") for path in mounts)
    if not inside and "://" not in run.folder:
        raise InputError(
            "--runs must lie on a file system that all machines share, or the run is lost with its "
            f"container; give {option}, and --runs in that path."
        )


def _parse_environment(pairs: Sequence[str]) -> dict[str, str]:
    variables = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InputError(f"--env {text} is not of the form NAME=VALUE.")
        if "\0" in value:
            raise InputError(f"--env {name}: the value holds a null character.")
        variables[name] = value
    return variables
