"""Types of command-line values that several commands share."""

import argparse
from collections.abc import Callable
from typing import Any

from mae_jax.errors import InputError


def comma_list(text: str) -> list[str]:
    """The values of a comma-separated option, such as `DNA,ER,RNA`.

    Use it with `action="extend"`, so that the option may also be repeated. Blanks around a value
    are dropped; an empty value is an error of argparse.
    """
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty value; write values as A,B,C")
    return values


def comma_list_of(
    item: Callable[[str], Any],
    count: int | None = None,
    split: Callable[[str], list[str]] = comma_list,
) -> "CommaList":
    """A `comma_list` whose values are converted by `item`, and are `count` in number if given.

    `split` divides the text where some commas belong to the values.
    """
    return CommaList(item, count, split)


class CommaList:
    """Type of a comma-separated option; see `comma_list_of`."""

    def __init__(
        self, item: Callable[[str], Any], count: int | None, split: Callable[[str], list[str]]
    ) -> None:
        self.item, self.count, self.split = item, count, split

    def __call__(self, text: str) -> list[Any]:
        values = self.split(text)
        if self.count is not None and len(values) != self.count:
            raise argparse.ArgumentTypeError(
                f"'{text}' has {len(values)} values; give {self.count}, separated by commas"
            )
        try:
            return [self.item(value) for value in values]
        except ValueError:
            name = getattr(self.item, "__name__", "value")
            raise argparse.ArgumentTypeError(
                f"'{text}' does not consist of values of type {name}, separated by commas"
            ) from None


def add_screen(parser: argparse._ActionsContainer, help_text: str = "") -> None:
    """Declare the screen to read: positional, or `--index`; `screen` gives it."""
    text = help_text or "the screen's index, LoadData CSV or folder of images"
    parser.add_argument("screen", nargs="?", metavar="INDEX", help=text)
    parser.add_argument("--index", metavar="INDEX", help="the same, as an option")


def screen(args: argparse.Namespace) -> str:
    """The screen that `add_screen` declares.

    Raises:
      InputError: none is given, or two.
    """
    if args.index is not None and args.screen is not None:
        raise InputError(
            f"two screens are given, {args.screen} and {args.index}; give one, and separate the "
            "values of an option by commas."
        )
    index: str | None = args.screen if args.index is None else args.index
    if index is None:
        raise InputError("no screen is given; give its index, as a path or with --index.")
    return index
