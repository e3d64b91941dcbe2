"""A reference of all keys of a config schema: type, default, range and meaning."""

import dataclasses
import re
import textwrap
import types
import typing

from mae_jax.config import allowed_range, alternatives, type_hints


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a schema.

    Attributes:
      name: full path, such as "optimizer.lr".
      only_in: where a table has one of several schemas, the name of the one with this key; or "".
      type: in Python's notation; the choices of a literal.
      default: as Python writes it; "" for a required key.
      range: in words; "" where every value of the type is valid.
      renamed_from: the key's name in earlier versions, or "".
      meaning: from the schema's docstring.
    """

    name: str
    only_in: str
    type: str
    default: str
    range: str
    renamed_from: str
    meaning: str


def describe(schema: type, prefix: str = "", only_in: str = "") -> list[Key]:
    """All keys of a config dataclass and of the tables in it, in the order of declaration."""
    meanings, hints = _meanings(schema), type_hints(schema)
    keys: list[Key] = []
    for field in dataclasses.fields(typing.cast(typing.Any, schema)):
        options = alternatives(hints[field.name])
        tables = [option for option in options if dataclasses.is_dataclass(option)]
        name = f"{prefix}{field.name}"
        for table in tables:
            label = typing.cast(type, table).__name__ if len(tables) > 1 else only_in
            keys += describe(typing.cast(type, table), f"{name}.", label)
        if tables:
            continue
        default = field.default
        keys.append(
            Key(
                name,
                only_in,
                _type_name(hints[field.name]),
                "" if default is dataclasses.MISSING else repr(default),
                allowed_range(field),
                field.metadata.get("renamed_from", ""),
                meanings.get(field.name, ""),
            )
        )
        item = next(iter(typing.get_args(hints[field.name])), None)
        if typing.get_origin(hints[field.name]) is tuple and dataclasses.is_dataclass(item):
            keys += describe(typing.cast(type, item), f"{name}[].", only_in)
    return keys


def as_text(keys: list[Key]) -> str:
    """The reference for a terminal, 100 columns wide."""
    blocks = []
    for key in keys:
        head = f"{key.name} ({key.only_in})" if key.only_in else key.name
        facts = [key.type, f"default {key.default}" if key.default else "required"]
        facts += [key.range] * bool(key.range)
        meaning = textwrap.fill(key.meaning, 96, initial_indent="    ", subsequent_indent="    ")
        blocks.append("\n".join([head, f"    {'; '.join(facts)}", *[meaning] * bool(meaning)]))
    return "\n".join(blocks)


def _type_name(hint: object) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, typing.get_args(hint)))
    if hint is type(None):
        return "None"
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return re.sub(r"[\w.]*\.(?=\w)", "", str(hint))


def _meanings(schema: type) -> dict[str, str]:
    """Field names to their entries under "Attributes:" in the schema's docstring."""
    doc = textwrap.dedent(schema.__doc__ or "")
    _, _, section = re.sub(r"\n {4}", "\n", doc).partition("Attributes:\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = re.match(r"  (\w+(?:, \w+)*): (.*)", line)
        if entry:
            names = entry[1].split(", ")
            meanings |= dict.fromkeys(names, entry[2])
        elif line.startswith("    ") and names:
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
        else:
            names = []
    return meanings
