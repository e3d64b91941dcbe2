"""Addresses of public data, from `endpoints.toml` or the environment."""

import os
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import quote


@cache
def _known() -> dict[str, str]:
    return tomllib.loads((Path(__file__).parent / "endpoints.toml").read_text())


def address(endpoint: str, path: str = "") -> str:
    """The URL of a path below an endpoint, with the path's special characters encoded."""
    base = os.environ.get(f"MAE_JAX_ENDPOINT_{endpoint.upper()}", _known()[endpoint]).rstrip("/")
    return f"{base}/{quote(path)}" if path else base
