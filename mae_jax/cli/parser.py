"""The parser of all commands: an error is one sentence that says what to write instead."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mae_jax.cli.option_types import CommaList, comma_list
from mae_jax.errors import WRONG_INPUT


class Parser(argparse.ArgumentParser):
    """A parser of whole option names whose help keeps its lines.

    An option's name is not abbreviated, so that a renamed one is recognized.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)
        self._argv: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; remembers the words for `error`."""
        self._argv = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one sentence and end with the status of wrong input."""
        if message.startswith("unrecognized arguments"):
            message = values_with_spaces(self, self._argv) or message
        self.exit(WRONG_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def values_with_spaces(parser: argparse.ArgumentParser, argv: Sequence[str]) -> str | None:
    """The error of a list that is written with spaces in `argv`, `--channels DNA ER`; or None."""
    flags = _list_options(parser)
    for position, word in enumerate(argv):
        flag, equals, first = word.partition("=")
        if flag not in flags:
            continue
        values = [first] if equals else []
        for value in argv[position + 1 :]:
            if value.startswith("-"):
                break
            values.append(value)
        if len(values) > 1:
            written = ",".join(value.strip(",") for value in values)
            return f"the values of {flag} are separated by commas: {flag} {written}"
    return None


def _list_options(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and its sub-commands that take comma-separated values."""
    flags: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                flags |= _list_options(command)
        elif action.type is comma_list or isinstance(action.type, CommaList):
            flags |= set(action.option_strings)
    return flags
