"""Command-line options from the fields of a specification that are annotated with `Option`."""

import argparse
import dataclasses
from collections.abc import Callable, Collection
from typing import Any, get_type_hints

from mae_jax.cli.option_types import comma_list, comma_list_of
from mae_jax.cli.removed_options import removed_option
from mae_jax.evaluation.protocols.option import Option


def options_of(spec: type) -> dict[str, Option]:
    """The options of a dataclass by field, in the order of the fields."""
    hints = get_type_hints(spec, include_extras=True)
    names = [f.name for f in dataclasses.fields(spec)]
    return {
        name: entry
        for name in names
        for entry in getattr(hints[name], "__metadata__", ())
        if isinstance(entry, Option)
    }


def add_field_options(
    parser: argparse._ActionsContainer, spec: type, names: Collection[str] | None = None
) -> None:
    """Declare the options of a dataclass's fields; `names` selects some of them."""
    fields = {f.name: f for f in dataclasses.fields(spec)}
    types = get_type_hints(spec)
    for name, option in options_of(spec).items():
        if names is None or name in names:
            number = types[name] if types[name] in (int, float) else None
            _add(parser, fields[name], option, option.parse or number)


def default_text(default: object) -> str:
    """A default as the end of a help text; empty for None, False and empty sequences."""
    if default is None or default is False or default in ((), [], {}):
        return ""
    if isinstance(default, (list, tuple)):
        default = ",".join(map(str, default))
    text = f"{default:,}" if isinstance(default, int) else str(default)
    return f" (default: {text})"


def _add(
    parser: argparse._ActionsContainer,
    field: "dataclasses.Field[Any]",
    option: Option,
    parse: Callable[[str], object] | None,
) -> None:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    flag = option.flag or "--" + field.name.replace("_", "-")
    settings: dict[str, Any] = {"dest": field.name}
    if default is dataclasses.MISSING:
        settings |= {"required": True, "help": option.help}
    else:
        settings |= {"default": default, "help": option.help + default_text(default)}
    settings["help"] = settings["help"].replace("%", "%%")
    if default is False:
        settings["action"] = "store_true"
    elif option.nargs is not None:  # not given: the field's default, which must not be extended
        count = option.nargs if isinstance(option.nargs, int) else None
        values = comma_list_of(parse or str, count, option.split or comma_list)
        settings |= {"type": values, "action": "extend"}
        settings |= {"metavar": option.metavar, "default": argparse.SUPPRESS}
    else:
        settings |= {"metavar": option.metavar, "choices": option.choices, "type": parse}
    parser.add_argument(flag, **settings)
    for old in option.old_flags:
        removed_option(parser, old, flag)
