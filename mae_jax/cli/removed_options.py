"""Options of earlier versions, as errors that name today's option."""

import argparse
from collections.abc import Sequence
from typing import NoReturn


class _Removed(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, reason: str) -> None:
        super().__init__(option_strings, dest, nargs="*", help=argparse.SUPPRESS)
        self.default = argparse.SUPPRESS
        self.reason = reason

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"{option_string} {self.reason}")


def removed_option(
    parser: argparse._ActionsContainer, old: str, new: str | None = None, reason: str = ""
) -> None:
    """Declare that option `old` is now `new`, or is gone for a `reason`: using it is an error."""
    reason = reason or f"is now called {new}"
    parser.add_argument(old, action=_Removed, dest=f"removed{old.replace('-', '_')}", reason=reason)
