"""What is launched: a command of mae-jax whose folder follows from the run's name."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mae_jax.errors import InputError

# The exit status of a training that a signal stopped, all saved: launchers must start it again,
# and would take 0 for the end of the run.
STOPPED = 75
# The exit status for wrong input: the same command would end the same way again.
WRONG_INPUT = 2

# What a launcher itself decides.
_OWN = {
    "train": ("--workdir", "--distributed", "--preempted-exit-code"),
    "embed": ("--out", "--task", "--num-tasks"),
}


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: also that of the job, of its pods and of its folder.
      folder: where it stands: started again under the same name, it goes on from there.
      words: the command after `mae-jax`.
      shards: the shares of an embedding; 0 for a training.
      environment: variables for its processes.
    """

    name: str
    folder: str
    words: tuple[str, ...]
    shards: int
    environment: dict[str, str]

    @property
    def training(self) -> bool:
        return self.shards == 0


def count(text: str) -> int:
    """An option's value that must be a number from 1 up, for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 up")
    return int(text)


def check_name(name: str) -> str:
    """`name`, if Kubernetes, Google Cloud and SLURM all accept it.

    Raises:
      InputError: it is no such name.
    """
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise InputError(
            f"'{name}' cannot name a run: take at most 40 small letters, digits and hyphens, "
            "with a letter first and no hyphen last."
        )
    return name


def make_run(
    name: str,
    root: str,
    words: Sequence[str],
    *,
    shards: int | None,
    environment: Sequence[str],
    stopped_status: bool,
) -> Run:
    """The run that the command line asks for.

    Args:
      root: the folder of all runs, as the run's machines see it.
      words: the command, `train …` or `embed …`.
      shards: the number of shares of an embedding.
      environment: NAME=VALUE, as given.
      stopped_status: whether a stopped training must end with the status `STOPPED`.

    Raises:
      InputError: the command is none that can be launched, or says what the launch decides.
    """
    words = list(words)
    if words[:1] == ["mae-jax"]:
        del words[0]
    if not words or words[0] not in _OWN:
        raise InputError(
            "give what to run after --, `train …` or `embed …`, "
            "such as: -- train --config configs/demo.py --config.data.index=/data/index.parquet"
        )
    for word in words:
        if word.split("=")[0] in _OWN[words[0]]:
            raise InputError(
                f"leave {word.split('=')[0]} out: the launch sets it (the folder is --runs/NAME)."
            )
    folder = f"{root.rstrip('/')}/{check_name(name)}"
    url = "://" in root
    if not url and not root.startswith("/"):
        raise InputError(f"--runs {root}: give the whole path, from /, as all machines see it.")
    if words[0] == "train":
        if url:
            raise InputError(
                f"--runs {root}: a training needs a folder that all its machines have mounted, "
                "not a URL."
            )
        if shards is not None:
            raise InputError("--shards is for embed; a training is divided by its config.mesh.")
        words += ["--workdir", folder, "--distributed"]
        words += ["--preempted-exit-code", str(STOPPED)] * stopped_status
    else:
        if shards is None:
            raise InputError("embed needs --shards N: in how many shares the work is divided.")
        words += ["--out", folder, "--num-tasks", str(shards)]
    return Run(check_name(name), folder, tuple(words), shards or 0, _pairs(environment))


def check_shared(run: Run, paths: Sequence[str], option: str) -> None:
    """Refuses a folder that would be lost with the container that wrote it.

    Args:
      paths: what is mounted in the containers.
      option: how to mount more.

    Raises:
      InputError: the run's folder lies in none of `paths`, and is no URL.
    """
    inside = any(run.folder.startswith(f"{path.rstrip('/')}/") for path in paths)
    if not inside and "://" not in run.folder:
        raise InputError(
            "--runs must lie on a file system that all machines share, or the run would be lost "
            f"with its container: give {option}, and --runs in that path."
        )


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise InputError(f"--env {text} is not of the form NAME=VALUE.")
        pairs[name] = value
    return pairs
