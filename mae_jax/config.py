"""Complete configurations: frozen dataclasses in code, `ConfigDict`s in config files.

A job's configuration is a tree of frozen dataclasses, which is its schema: every key has a type
and a default, and no other key exists. Config files (`configs/*.py`) build an
`ml_collections.ConfigDict` from it with `as_config_dict` and change values; `from_dict` reads any
mapping back and refuses a key that the schema does not know, naming its nearest neighbour.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ml_collections

from mae_jax.errors import InputError

Schema = TypeVar("Schema")


def nearest(name: str, known: Sequence[str]) -> str:
    """' Did you mean …?' for the known name closest to `name`, or the list of all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known))}."


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
    """Builds the dataclass `schema` from nested mappings `values`, checking every key and type.

    A schema in which one key says what another one holds has `narrowed(values, where)`, which
    gives the types of such fields.

    Raises:
      InputError: an unknown key (with its nearest neighbour) or a value of the wrong type; the
        message names the key by its full path.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be a table of keys, not {values!r}.")
    hints = typing.get_type_hints(schema)
    narrowed = getattr(schema, "narrowed", None)
    if narrowed is not None:
        hints |= narrowed(values, where)
    known = [f.name for f in dataclasses.fields(typing.cast(Any, schema))]
    for key in values:
        if key not in known:
            raise InputError(f"{where} has no key '{key}': {nearest(key, known)}")
    found = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return schema(**found)
    except TypeError as problem:  # a field without default that was not given
        raise InputError(f"{where} is incomplete: {problem}.") from None
    except InputError as problem:  # a check in __post_init__
        raise InputError(f"{where}: {problem}") from None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of `A | B | None`, or the hint alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _plain_type(config: Any, name: str) -> type:
    """The type that a None-valued field takes when it is set."""
    hint = typing.get_type_hints(type(config))[name]
    concrete = [option for option in _options(hint) if option is not type(None)]
    origin = typing.get_origin(concrete[0]) or concrete[0]
    return typing.cast(type, origin)


def _typed(hint: Any, value: Any, where: str) -> Any:
    options = _options(hint)
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
        kinds = typing.get_args(hint)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        elif len(kinds) != len(value):
            raise InputError(f"{where} must have {len(kinds)} values, not {len(value)}.")
        return tuple(
            _typed(kind, item, f"{where}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table of keys, not {value!r}.")
        _, kind = typing.get_args(hint)
        return {str(key): _typed(kind, item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise InputError(f"{where} must be of type {name}, not {value!r}.")
