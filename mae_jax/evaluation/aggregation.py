"""From wells to one vector per gene or perturbation (section 5.1)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import ColumnSchema, Profiles

REPLICATES = "Metadata_Replicates"


def l2_normalize(x: Float[np.ndarray, "rows features"]) -> Float32[np.ndarray, "rows features"]:
    """Rows scaled to length 1; a row of zeros stays zero."""
    x = x.astype(np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, np.float32(1))


def origin_at_controls(profiles: Profiles, controls: str = ColumnSchema.controls) -> Profiles:
    """Move the origin to the mean of the negative controls, over all batches."""
    mask = profiles.controls(controls)
    origin = profiles.features[mask].mean(axis=0, dtype=np.float64).astype(np.float32)
    return Profiles(profiles.metadata, profiles.features - origin, profiles.names)


def spherical_means(
    features: Float32[np.ndarray, "rows features"], codes: np.ndarray, groups: int
) -> Float32[np.ndarray, "groups features"]:
    """The spherical mean of each group: normalize its rows, take their mean, normalize.

    Args:
      features: (N, F).
      codes: (N,) the group of each row, in 0…groups−1; negative rows are left out.
      groups: how many.
    """
    order = np.argsort(codes, kind="stable")
    order = order[np.searchsorted(codes[order], 0) :]
    sums = np.zeros((groups, features.shape[1]), np.float64)
    starts = np.searchsorted(codes[order], np.arange(groups + 1))
    for start in range(0, groups, 512):  # blocks of groups, so that the normalized copy stays small
        stop = min(start + 512, groups)
        rows = order[starts[start] : starts[stop]]
        if len(rows):
            local = (starts[start:stop] - starts[start]).astype(int)
            filled = np.flatnonzero(np.diff(np.append(local, len(rows))))
            block = l2_normalize(features[rows]).astype(np.float64)
            sums[start + filled] = np.add.reduceat(block, local[filled], axis=0)
    return l2_normalize(sums)


def aggregate(
    profiles: Profiles,
    by: str = "Metadata_Gene",
    *,
    levels: Sequence[str] = (),
    controls: str | None = ColumnSchema.controls,
    keep_controls: bool = False,
) -> Profiles:
    """One spherical mean per value of `by`, with the origin at the mean of the negative controls.

    Rows whose `by` is "" are left out, and so are the controls.

    Args:
      profiles: wells (N, F).
      by: the metadata column to aggregate by, such as the gene.
      levels: columns to aggregate by on the way, finest first, such as the guide: every guide
        then weighs the same in its gene, however many wells it has.
      controls: which rows are negative controls (COLUMN=VALUE), or None: the origin stays and
        no row is a control.
      keep_controls: aggregate the controls too.

    Returns:
      One row per value of `by`, sorted, with those metadata that do not vary within it and
      `Metadata_Replicates`, the number of wells.

    Raises:
      InputError: no such column, no controls, or no row to aggregate.
    """
    values = profiles.column(by).to_numpy(dtype=object)
    keep = values != ""
    features = profiles.features
    if controls is not None:
        mask = profiles.controls(controls)
        features = origin_at_controls(profiles, controls).features
        keep = keep if keep_controls else keep & ~mask
    if not keep.any():
        raise InputError(f"no treated row has a value in {by}: nothing to aggregate.")
    metadata, features = profiles.metadata[keep], features[keep]
    wells = np.ones(len(metadata), np.int64)
    for level in range(len(levels) + 1):
        columns = [*levels[level:], by]
        for name in columns:
            profiles.column(name)
        grouped = metadata.groupby(columns, sort=True)
        codes = grouped.ngroup().to_numpy()
        groups = int(codes.max()) + 1
        features = spherical_means(features, codes, groups)
        wells = np.bincount(codes, weights=wells, minlength=groups).astype(np.int64)
        metadata = _common(metadata, codes, groups)
    first = [by, *[c for c in metadata.columns if c != by]]
    metadata = metadata[first].assign(**{REPLICATES: [str(w) for w in wells]})
    return Profiles(metadata, features, profiles.names)


def _common(metadata: pd.DataFrame, codes: np.ndarray, groups: int) -> pd.DataFrame:
    """One row per group, of the columns that have one value within every group."""
    _, first = np.unique(codes, return_index=True)
    kept = {}
    for name in metadata.columns:
        values, _ = pd.factorize(metadata[name])
        if (values == values[first][codes]).all():
            kept[name] = metadata[name].iloc[first].reset_index(drop=True)
    return pd.DataFrame(kept, index=range(groups))
