"""Complete configurations: frozen dataclasses in code, `ConfigDict`s in config files.

A job's configuration is a tree of frozen dataclasses, which is its schema: every key has a type,
a default and a range, and no other key exists. The range is declared once, with the field:

    @config.schema
    class OptimizerConfig:
        lr: float = setting(1e-4, gt=0)

and holds however the value arrives: from Python, a config file, the command line or a saved file.
Config files (`configs/*.py`) build an `ml_collections.ConfigDict` with `as_config_dict` and change
values; `from_dict` reads any mapping back and refuses an unknown key, naming the nearest one.
"""

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

import ml_collections

from mae_jax.errors import InputError

Schema = TypeVar("Schema")
Value = TypeVar("Value")
Problem = str | None  # "must …", or None

# Keys of a field's metadata.
BOUNDS = ("gt", "ge", "lt", "le")
_SIGNS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def nearest(name: str, known: Sequence[str]) -> str:
    """'did you mean …?' with the known name closest to `name`, or the list of all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}."


# ---- declaring a schema


def setting(
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Callable[[], Any] | None = None,
    gt: float | int | None = None,
    ge: float | int | None = None,
    lt: float | int | None = None,
    le: float | int | None = None,
    allow: tuple[Any, ...] = (),
    finite: bool = True,
    check: Callable[[Any], Problem] | None = None,
    renamed_from: str = "",
) -> Any:
    """A field of a config dataclass, with its range.

    Args:
      default, default_factory: as of `dataclasses.field`.
      gt, ge, lt, le: exclusive and inclusive bounds of a number, or of each number in a tuple.
      allow: special values outside the bounds, such as -1.
      finite: whether a float must be finite; fields declared without `setting` must be too.
      check: returns what is wrong with a value ("must …"), or None.
      renamed_from: the key's name in earlier versions; `from_dict` refuses it and names the new
        one, `upgrade_keys` translates it in saved files.
    """
    bounds = {"gt": gt, "ge": ge, "lt": lt, "le": le}
    metadata: dict[str, Any] = {name: bound for name, bound in bounds.items() if bound is not None}
    metadata |= {"allow": allow, "finite": finite, "check": check, "renamed_from": renamed_from}
    if default_factory is not None:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True)
def schema(cls: type[Schema]) -> type[Schema]:
    """Class decorator: a frozen dataclass whose fields are checked whenever one is made.

    The class's own `__post_init__`, for rules between fields, runs after the fields' checks.
    """
    own = cls.__dict__.get("__post_init__")

    def __post_init__(self: Any) -> None:
        for field in dataclasses.fields(self):
            if problem := _problem(type(self), field, getattr(self, field.name)):
                raise InputError(f"{field.name} {problem}")
        if own is not None:
            own(self)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)


def positive(default: int) -> Any:
    """A count: `setting(default, ge=1)`."""
    return setting(default, ge=1)


def distinct(names: Sequence[str]) -> Problem:
    """A check for `setting`: at least one name, and none twice."""
    if not names:
        return "must name at least one."
    twice = sorted({name for name in names if list(names).count(name) > 1})
    return f"must differ from each other, but '{twice[0]}' is given twice." if twice else None


def regular_expressions(patterns: Sequence[str]) -> Problem:
    """A check for `setting`: every pattern compiles."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"must hold regular expressions, but '{pattern}' is none ({error})."
    return None


def _problem(cls: type, field: "dataclasses.Field[Any]", value: Any) -> Problem:
    """What is wrong with a field's value, as "must …", or None."""
    metadata = field.metadata
    if value in metadata.get("allow", ()):
        return None
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if metadata.get("finite", True) and not math.isfinite(number):
            return f"must be finite, not {number}."
        for name in BOUNDS:
            if name in metadata and not _within(name, number, metadata[name]):
                return f"must be {allowed_range(field)}, not {number}."
    hint = type_hints(cls)[field.name]
    if typing.get_origin(hint) is typing.Literal and value not in typing.get_args(hint):
        return f"must be one of {', '.join(map(str, typing.get_args(hint)))}, not {value!r}."
    check = metadata.get("check")
    return check(value) if check else None


def _within(bound: str, number: float | int, limit: float | int) -> bool:
    match bound:
        case "gt":
            return number > limit
        case "ge":
            return number >= limit
        case "lt":
            return number < limit
    return number <= limit


def allowed_range(field: "dataclasses.Field[Any]") -> str:
    """A field's range in words: "above 0 and at most 1", or "" where it has none."""
    metadata = field.metadata
    words = [f"{_SIGNS[name]} {metadata[name]:,g}" if abs(metadata[name]) < 1e6 else
             f"{_SIGNS[name]} {metadata[name]}" for name in BOUNDS if name in metadata]  # fmt: skip
    special = [str(value) for value in metadata.get("allow", ())]
    return " or ".join([" and ".join(words), *special] if words else special)


def type_hints(schema: type) -> dict[str, Any]:
    """The types of a schema's fields.

    A schema with fields whose types others may add to has `open_hints()`, which returns them.
    """
    return _own_hints(schema) | getattr(schema, "open_hints", dict)()


@functools.cache
def _own_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


# ---- to and from mappings


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass `config` as plain nested dicts and lists, ready for JSON."""
    if not dataclasses.is_dataclass(config):
        raise TypeError(f"expected a dataclass, got {type(config).__name__}")
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def as_config_dict(config: Any) -> ml_collections.ConfigDict:
    """The dataclass `config` as a `ConfigDict` that refuses unknown keys and keeps types.

    Tuples stay tuples: ml_collections then takes `--config.key='("a", "b")'`.
    """
    result = ml_collections.ConfigDict()
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        nullable = value is None
        if dataclasses.is_dataclass(value):
            value = as_config_dict(value)
        if nullable:
            result[f.name] = ml_collections.config_dict.placeholder(_plain_type(config, f.name))
        else:
            result[f.name] = value
    return result.lock()


def from_dict(schema: type[Schema], values: Any, where: str = "config") -> Schema:
    """Build the dataclass `schema` from nested mappings `values`, checking keys, types, ranges.

    A schema in which one key decides the type of another has `narrowed(values, where)`, which
    returns the types of such fields.

    Raises:
      InputError: an unknown key (with the nearest one), a renamed key (with the new name), a
        value of the wrong type or out of range; the message names the key by its full path.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a table of keys, not {values!r}.")
    hints = hints_of(schema, values, where)
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, schema))}
    old_names = renamed(schema)
    for key in values:
        if key in old_names:
            raise InputError(
                f"{where}.{key} is now called {where}.{old_names[key]}; write that instead."
            )
        if key not in fields:
            raise InputError(f"{where} has no key '{key}': {nearest(str(key), list(fields))}")
    arguments = {}
    for key, value in values.items():
        arguments[key] = _typed(hints[key], value, f"{where}.{key}")
        if problem := _problem(schema, fields[key], arguments[key]):
            raise InputError(f"{where}.{key} {problem}")
    try:
        return schema(**arguments)
    except TypeError as problem:  # a field without default that was not given
        raise InputError(f"{where} is incomplete: {problem}.") from None
    except InputError as problem:  # a rule between fields, in __post_init__
        raise InputError(f"{where}: {problem}") from None


def hints_of(schema: type, values: Mapping[str, Any], where: str = "config") -> dict[str, Any]:
    """The types of the fields of `schema`, narrowed by `values`."""
    narrowed = getattr(schema, "narrowed", None)
    return type_hints(schema) | (narrowed(values, where) if narrowed is not None else {})


def renamed(schema: type) -> dict[str, str]:
    """Keys of earlier versions of `schema`, old name to new."""
    fields = dataclasses.fields(typing.cast(Any, schema))
    pairs = {f.metadata.get("renamed_from", ""): f.name for f in fields}
    return {old: new for old, new in pairs.items() if old}


def from_saved(schema: type[Schema], values: Any, where: str) -> Schema:
    """`from_dict` for a file that this or an earlier version saved; later keys get defaults."""
    return from_dict(schema, upgrade_keys(schema, values, where), where)


def upgrade_keys(schema: type, values: Any, where: str = "config") -> Any:
    """`values` of a file that an earlier version saved, with the keys' names of today.

    A schema that has renamed values or removed keys has `upgrade_saved(values)`, which returns
    the values with today's; its keys are renamed already.

    Unknown keys are left for `from_dict` to refuse.
    """
    if not isinstance(values, Mapping):
        return values
    names = renamed(schema)
    values = {names.get(key, key): value for key, value in values.items()}
    upgrade_saved = getattr(schema, "upgrade_saved", None)
    if upgrade_saved is not None:
        values = upgrade_saved(values)
    hints = hints_of(schema, values, where)
    return {key: _upgraded(hints.get(key), value) for key, value in values.items()}


def _upgraded(hint: Any, value: Any) -> Any:
    for option in alternatives(hint):
        if dataclasses.is_dataclass(option):
            return upgrade_keys(typing.cast(type, option), value)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(option)[0]
            return [_upgraded(item, v) for v in value] if dataclasses.is_dataclass(item) else value
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The alternatives of `A | B | None`, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _plain_type(config: Any, name: str) -> type:
    """The type that a None-valued field takes when it is set."""
    hint = type_hints(typing.cast(Any, type(config)))[name]
    concrete = [option for option in alternatives(hint) if option is not type(None)]
    origin = typing.get_origin(concrete[0]) or concrete[0]
    return typing.cast(type, origin)


def _typed(hint: Any, value: Any, where: str) -> Any:
    options = alternatives(hint)
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _as(option, value, where)
        except InputError as problem:
            problems.append(problem)
    raise problems[0]


def _as(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return value
        return from_dict(typing.cast(type, hint), value, where)
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise InputError(
                f"{where} must be one of {', '.join(map(str, choices))}, not {value!r}."
            )
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"{where} must be a list, not {value!r}.")
        item_types = typing.get_args(hint)
        if len(item_types) == 2 and item_types[1] is Ellipsis:
            item_types = (item_types[0],) * len(value)
        elif len(item_types) != len(value):
            raise InputError(f"{where} must have {len(item_types)} values, not {len(value)}.")
        return tuple(
            _typed(item_type, item, f"{where}[{i}]")
            for i, (item_type, item) in enumerate(zip(item_types, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table of keys, not {value!r}.")
        _, item_type = typing.get_args(hint)
        return {str(key): _typed(item_type, item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise InputError(f"{where} must be a number that fits a float, not {value}.") from None
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise InputError(f"{where} must be of type {name}, not {value!r}.")
