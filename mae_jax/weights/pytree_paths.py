"""Nested dicts of parameters as flat dicts of dotted names, and their comparison."""

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mae_jax.errors import InputError

Leaf = TypeVar("Leaf")


@runtime_checkable
class HasShape(Protocol):
    """An array or a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def flatten(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Flatten nested parameters: {"encoder": {"cls_token": a}} to {"encoder.cls_token": a}.

    Names are sorted and values are numpy arrays.
    """
    return {name: np.asarray(value) for name, value in flatten_leaves(params).items()}


def flatten_leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts as `flatten` does and keep the leaves as they are (shapes, say)."""
    flat: dict[str, Any] = {}
    for name in sorted(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            flat |= flatten_leaves(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def unflatten(flat: Mapping[str, Leaf]) -> dict[str, Any]:
    """Nest dicts by dotted name; the inverse of `flatten`."""
    params: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return params


def check_keys(
    actual: Mapping[str, HasShape], expected: Mapping[str, HasShape], source: str
) -> None:
    """Compare names and shapes.

    Args:
      source: the file or state dict of `actual`, for the message.

    Raises:
      InputError: lists every missing, unexpected and mis-shaped key.
    """
    missing = sorted(set(expected) - set(actual))
    unexpected = sorted(set(actual) - set(expected))
    misshapen = [
        f"{name} (has {tuple(actual[name].shape)}, expected {tuple(expected[name].shape)})"
        for name in sorted(set(actual) & set(expected))
        if tuple(actual[name].shape) != tuple(expected[name].shape)
    ]
    problems = [
        f"{len(names)} {label}: {', '.join(names)}"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    if problems:
        raise InputError(f"{source} does not fit the architecture; keys {'; '.join(problems)}.")


def check_finite(tensors: Mapping[str, np.ndarray], source: str) -> None:
    """Check that floating-point tensors hold neither NaN nor infinity.

    Raises:
      InputError: names the first tensor that does.
    """
    for name, value in tensors.items():
        is_float = np.issubdtype(value.dtype, np.inexact) or value.dtype.kind == "V"
        if is_float and not np.isfinite(value).all():
            count = int(value.size - np.isfinite(value).sum())
            raise InputError(
                f"{source} has {count} values that are not finite in '{name}'; restore it from a "
                "copy, or save the model from an earlier checkpoint."
            )


def fingerprint(params: Mapping[str, Any], *extra: str) -> str:
    """Return a SHA-256 over names, dtypes, shapes and values of the parameters, and `extra`."""
    digest = hashlib.sha256()
    for name, value in flatten(params).items():
        digest.update(f"{name}|{value.dtype}|{value.shape}|".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    for text in extra:
        digest.update(text.encode())
    return digest.hexdigest()
