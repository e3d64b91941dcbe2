"""Options of earlier versions, as errors that name today's option."""

import argparse
from collections.abc import Sequence
from typing import NoReturn


class _Removed(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, replacement: str) -> None:
        super().__init__(option_strings, dest, nargs="*", help=argparse.SUPPRESS)
        self.default = argparse.SUPPRESS
        self.replacement = replacement

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} is now called {self.replacement}")


def removed_option(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Declare that option `old` is now `new`: using `old` is an error that says so."""
    parser.add_argument(
        old, action=_Removed, dest=f"removed{old.replace('-', '_')}", replacement=new
    )
