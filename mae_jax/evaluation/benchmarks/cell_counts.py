"""The baseline that every benchmark has: how many cells stand in a well."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.columns import METADATA
from mae_jax.evaluation.profiles import Profiles

NEEDED = (
    "--counts FILE with plate, well and a column of counts; or a table of CellProfiler's features "
    "with Nuclei_Number_Object_Number"
)
_COUNT = re.compile(
    r"(nuclei|cells|cytoplasm)_number_object_number|(cells?|nucle[iu]s?|objects?)_?counts?"
    r"|counts?_(cells|nuclei|cytoplasm)|counts?|n_?(cells|nuclei)",
    re.IGNORECASE,
)


def count_profiles(table: Profiles) -> Profiles | None:
    """The counts among a table's features or metadata as features; None: it has none."""
    features = [i for i, name in enumerate(table.names) if is_count(name)]
    if features:
        names = tuple(table.names[i] for i in features)
        return Profiles(table.metadata, np.ascontiguousarray(table.features[:, features]), names)
    columns = [c for c in table.metadata if is_count(str(c).removeprefix(METADATA))]
    if not columns:
        return None
    values = table.metadata[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    if not np.isfinite(values).all():
        return None
    return Profiles(table.metadata, values, tuple(map(str, columns)))


def is_count(name: str) -> bool:
    """Whether a column's name says that it counts cells."""
    return _COUNT.fullmatch(name) is not None


def read_counts(path: str | os.PathLike[str]) -> Profiles:
    """A table of counts: Parquet or CSV (.gz) with plate, well and one or several counts.

    Raises:
      InputError: no such file, or no column of counts.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a table of cell counts.")
    read = pd.read_parquet if path.suffix == ".parquet" else pd.read_csv
    table = read(path)
    counts = [c for c in table.columns if is_count(str(c).removeprefix(METADATA))]
    if not counts:
        raise InputError(
            f"{path} has no column of cell counts; call it Count_Cells or "
            "Nuclei_Number_Object_Number."
        )
    others = table.drop(columns=counts).astype("str")
    others.columns = [str(c) if str(c).startswith(METADATA) else f"{METADATA}{c}" for c in others]
    features = table[counts].to_numpy(np.float32)
    return Profiles(others.reset_index(drop=True), features, tuple(map(str, counts)))


def on_arc(
    values: Float[np.ndarray, " rows"], span: float = np.pi
) -> Float32[np.ndarray, "rows 2"]:
    """Numbers as points of an arc, so that cosines rank pairs as differences do.

    A score that ranks by cosine sees only the sign of a single feature. Here the smallest value is
    at the angle 0, the largest at `span` ≤ π, and the cosine of two points, cos(θ_i − θ_j), falls
    as |x_i − x_j| grows; with `span` ≤ π/2 so does its absolute value.
    """
    low, high = float(values.min()), float(values.max())
    angles = (values.astype(np.float64) - low) / max(high - low, 1e-12) * span
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
