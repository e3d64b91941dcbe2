"""`--json`: the result of a command as one JSON document on stdout."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from typing import Any


def print_document(
    command: str, status: int, result: Mapping[str, Any] | None = None, error: str = ""
) -> None:
    """Print `{"command": …, "status": …, …}` with the result's keys, or with "error"."""
    document = {"command": command, "status": status, **(result or {})}
    if error:
        document["error"] = error
    sys.stdout.write(json.dumps(plain(document), ensure_ascii=False, indent=2) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: paths as text, tables as records, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a table of pandas
        return plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return plain(value.tolist())
    return str(value)
