"""Nested dicts of parameters as flat tables of dotted names, and their comparison."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mae_jax.errors import InputError


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """{"encoder": {"cls_token": a}} as {"encoder.cls_token": a}, sorted by name."""
    flat: dict[str, np.ndarray] = {}
    for name in sorted(params):
        value = params[name]
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    params: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, leaf = name.split(".")
        place = params
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value
    return params


def check_keys(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Compares names and shapes.

    Raises:
      InputError: lists every missing, surplus and misshapen key.
    """
    missing = sorted(set(expected) - set(found))
    surplus = sorted(set(found) - set(expected))
    misshapen = [
        f"{name} (found {tuple(found[name].shape)}, expected {tuple(expected[name].shape)})"
        for name in sorted(set(found) & set(expected))
        if tuple(found[name].shape) != tuple(expected[name].shape)
    ]
    problems = [
        f"{len(names)} {label}: {', '.join(names)}"
        for label, names in (
            ("missing", missing),
            ("surplus", surplus),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(f"{where} does not fit the architecture; keys {'; '.join(problems)}.")


def fingerprint(params: Mapping[str, Any], *records: str) -> str:
    """A SHA-256 over names, types, shapes and values of the parameters, and over `records`."""
    digest = hashlib.sha256()
    for name, value in flatten(params).items():
        digest.update(f"{name}|{value.dtype}|{value.shape}|".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    for record in records:
        digest.update(record.encode())
    return digest.hexdigest()
