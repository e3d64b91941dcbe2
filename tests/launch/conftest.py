"""Fixtures of the launch tests: the command line, and fake programs that record their calls."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.__main__ import main

NAMES = (
    "gcloud kubectl sbatch srun squeue sacct scancel scontrol tail docker curl mountpoint mount "
    "sleep"
)
NOTE = """\
#!{python} -ISE
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
name = os.path.basename(__file__)
# Only submissions read a document; elsewhere the standard input is the test's own.
reads = any(word in ("--filename=-", "--metadata-from-file=startup-script=/dev/stdin")
            for word in sys.argv) or name == "sbatch"
entry = {{"words": [name, *sys.argv[1:]], "document": sys.stdin.read() if reads else None}}
with open(os.path.join(here, "noted.jsonl"), "a") as file:
    file.write(json.dumps(entry) + "\\n")
answers = os.path.join(here, name + ".answers")
status = 0
if os.path.exists(answers):  # one line an answer: status, then what to print
    with open(answers) as file:
        first, *rest = file.read().splitlines()
    with open(answers, "w") as file:
        file.write("\\n".join(rest or [first]))
    status, _, text = first.partition(" ")
    print(text)
sys.exit(int(status))
"""


@dataclass(frozen=True)
class Programs:
    """Programs on PATH that record their calls.

    `answer` sets the exit status and the output of a program's next calls, the last for all more.
    """

    folder: Path

    def answer(self, program: str, *answers: str) -> None:
        (self.folder / f"{program}.answers").write_text("\n".join(answers))

    def noted(self) -> list[tuple[list[str], str | None]]:
        file = self.folder / "noted.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(entry["words"], entry["document"]) for entry in map(json.loads, lines)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Fakes of all programs that a launch calls, first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NAMES.split():
        (folder / name).write_text(NOTE.format(python=sys.executable))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "ada")
    return Programs(folder)


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys) -> Callable[[str], str]:
    """The output of a command line with --dry-run, for the user ada."""
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("PATH", "/nowhere")  # so nothing can be run

    def show(line: str) -> str:
        capsys.readouterr()
        options, dashes, command = line.partition(" -- ")
        words = [*options.split(), "--dry-run", *dashes.split(), *command.split()]
        assert main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return show


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "write the output to tests/launch/goldens instead of comparing it"
    parser.addoption("--update-goldens", action="store_true", help=text)
