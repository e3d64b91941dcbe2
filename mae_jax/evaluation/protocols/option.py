"""How a field of a specification is offered on the command line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """Option of `mae-jax evaluate` for a field: `seed: Annotated[int, Option("random seed")] = 0`.

    The option is called like the field, with hyphens; its default, and whether it must be given,
    are the field's. A field of type bool is a flag. Help ends with the default.

    Attributes:
      help: a phrase, without the default.
      flag: another name than the field's, such as "--aggregate-via".
      old_flags: what earlier versions called the option; using one is an error that names today's.
      parse: converts the text; None: the field's type, if that is int or float.
      nargs: "+" for several values, separated by commas; a number for exactly that many.
      metavar: what stands for the value in the help.
      choices: all values that are allowed.
      split: divides a list of values where some commas belong to the values.
      named: the values are [NAME=]PATH and the field is a mapping of names to paths.
    """

    help: str
    flag: str = ""
    old_flags: Sequence[str] = ()
    parse: Callable[[str], object] | None = None
    nargs: int | str | None = None
    metavar: str | None = None
    choices: Sequence[str] | None = None
    split: Callable[[str], list[str]] | None = None
    named: bool = False
