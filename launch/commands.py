"""External commands of a launch: printed as a shell script, or run."""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mae_jax.errors import InputError


@dataclass(frozen=True)
class Command:
    """A program with its arguments.

    Attributes:
      argv: program and arguments.
      stdin: document that it reads from its standard input.
      may_fail: the following commands run whether or not this one succeeds.
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    may_fail: bool = False

    def __str__(self) -> str:
        """The command as a shell script; a long one has one option per line."""
        text = shlex.join(self.argv)
        if len(text) > 90:
            text = " \\\n  ".join(_by_option(self.argv))
        if self.may_fail:
            text += " || true"
        if self.stdin is not None:
            end = _delimiter(self.stdin)
            text += f" <<'{end}'\n{self.stdin.rstrip()}\n{end}"
        return text

    def run(self) -> None:
        """Runs the command, with its output on this terminal.

        Raises:
          InputError: the program is missing, or it failed and must not.
        """
        done = self._run(capture=False)
        if done.returncode and not self.may_fail:
            raise InputError(
                f"{self.argv[0]} ended with status {done.returncode}; its message is above."
            )

    def output(self) -> str | None:
        """The standard output of the command, or None if it fails."""
        done = self._run(capture=True)
        return None if done.returncode else done.stdout.strip()

    def _run(self, *, capture: bool) -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE if capture else None
        try:
            return subprocess.run(self.argv, input=self.stdin, stdout=pipe, text=True, check=False)
        except FileNotFoundError:
            raise InputError(f"{self.argv[0]} is not installed here, or not on PATH.") from None


def command(*argv: str, stdin: str | None = None, may_fail: bool = False) -> Command:
    """A command; empty arguments are left out."""
    return Command(tuple(word for word in argv if word), stdin, may_fail)


def bash_array(name: str, words: Sequence[str]) -> str:
    """The bash assignment of an array; a long one has one option per line."""
    text = f"{name}=({shlex.join(words)})"
    if len(text) > 90:
        text = "\n  ".join([f"{name}=(", *_by_option(words)]) + "\n)"
    return text


def _by_option(words: Sequence[str]) -> list[str]:
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("--") and lines[-1]:
            lines.append([])
        lines[-1].append(word)
    return [shlex.join(line) for line in lines]


def _delimiter(document: str) -> str:
    """The end of a here-document, which no line of the document equals."""
    lines = set(document.splitlines())
    delimiter = "END_OF_DOCUMENT"
    while delimiter in lines:
        delimiter += "_"
    return delimiter
