"""Config keys by name: their current and earlier paths, and reading or setting them in the tree."""

import dataclasses
import typing
from typing import Any

from mae_jax.config import alternatives, renamed, type_hints


def current_path(schema: type, path: str) -> str | None:
    """Today's path of a key given by its path in this or an earlier version; None if unknown."""
    name, dot, rest = path.partition(".")
    name = renamed(schema).get(name, name)
    if name not in type_hints(schema):
        return None
    if not dot:
        return name
    for option in alternatives(type_hints(schema)[name]):
        if dataclasses.is_dataclass(option):
            inner = current_path(typing.cast(type, option), rest)
            if inner is not None:
                return f"{name}.{inner}"
    return None


def renamed_keys(schema: type, prefix: str = "") -> dict[str, list[str]]:
    """Names of earlier versions anywhere in `schema`, each with the paths of today's keys."""
    names: dict[str, list[str]] = {}
    for old, new in renamed(schema).items():
        names.setdefault(old, []).append(f"{prefix}{new}")
    for name, hint in type_hints(schema).items():
        for option in alternatives(hint):
            item = next(iter(typing.get_args(option)), None)
            for table in (option, item):
                if dataclasses.is_dataclass(table):
                    inner = renamed_keys(typing.cast(type, table), f"{prefix}{name}.")
                    for old, paths in inner.items():
                        names.setdefault(old, []).extend(paths)
    return {old: list(dict.fromkeys(paths)) for old, paths in names.items()}


def has_key(config: Any, name: str) -> bool:
    """Whether a config, or a config within it, has the key `name`."""
    children = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return any(field.name == name for field in dataclasses.fields(config)) or any(
        has_key(child, name) for child in children if dataclasses.is_dataclass(child)
    )


def with_key(config: Any, name: str, value: Any) -> Any:
    """`config` with the key `name` replaced wherever its tree has it ("attention", "dtype")."""
    changes = {}
    for field in dataclasses.fields(config):
        child = getattr(config, field.name)
        if field.name == name:
            changes[name] = value
        elif dataclasses.is_dataclass(child):
            changes[field.name] = with_key(child, name, value)
    return dataclasses.replace(config, **changes)
