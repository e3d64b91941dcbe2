"""Types of command-line values that several commands share."""

import argparse
from collections.abc import Callable
from typing import Any


def comma_list(text: str) -> list[str]:
    """The values of a comma-separated option, such as `DNA,ER,RNA`.

    Use it with `action="extend"`, so that the option may also be repeated. Blanks around a value
    are dropped; an empty value is an error of argparse.
    """
    values = [value.strip() for value in text.split(",")]
    if not all(values):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty value; write values as A,B,C")
    return values


def comma_list_of(item: Callable[[str], Any], count: int | None = None) -> "CommaList":
    """A `comma_list` whose values are converted by `item`, and are `count` in number if given."""
    return CommaList(item, count)


class CommaList:
    """Type of a comma-separated option; see `comma_list_of`."""

    def __init__(self, item: Callable[[str], Any], count: int | None) -> None:
        self.item, self.count = item, count

    def __call__(self, text: str) -> list[Any]:
        values = comma_list(text)
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
