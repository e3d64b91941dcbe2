"""The other programs that a launch calls: shown as a shell would take them, or run."""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from mae_jax.errors import InputError


@dataclass(frozen=True)
class Call:
    """A program, its arguments, and the document that it reads from its standard input.

    `may_fail`: what follows is done whether or not this succeeds.
    """

    words: tuple[str, ...]
    document: str | None = None
    may_fail: bool = False

    def __str__(self) -> str:
        """The call as a shell script, whole: a long one has an option a line."""
        text = shlex.join(self.words)
        if len(text) > 90:
            text = " \\\n  ".join(_by_option(self.words))
        if self.may_fail:
            text += " || true"
        if self.document is not None:
            text += f" <<'END_OF_DOCUMENT'\n{self.document.rstrip()}\nEND_OF_DOCUMENT"
        return text

    def run(self) -> None:
        """Runs it, with its output on this terminal.

        Raises:
          InputError: the program is missing, or it ended badly and must not.
        """
        done = self._run(capture=False)
        if done.returncode and not self.may_fail:
            raise InputError(
                f"{self.words[0]} ended with status {done.returncode}; it says above why."
            )

    def output(self) -> str | None:
        """What it prints; nothing (None) if it fails."""
        done = self._run(capture=True)
        return None if done.returncode else done.stdout.strip()

    def _run(self, *, capture: bool) -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE if capture else None
        try:
            return subprocess.run(
                self.words, input=self.document, stdout=pipe, text=True, check=False
            )
        except FileNotFoundError:
            raise InputError(f"{self.words[0]} is not installed here, or not on PATH.") from None


def call(*words: str, document: str | None = None, may_fail: bool = False) -> Call:
    """The call of `words`; empty words are left out."""
    return Call(tuple(word for word in words if word), document, may_fail)


def bash_list(name: str, words: Sequence[str]) -> str:
    """What sets the array `name` in bash: a long one has an option a line."""
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
