"""Replicate consistency and perturbation strength, with permutation p-values.

Both are those of the maps-of-biology literature (Celik et al.): do a perturbation's replicates
agree more than wells drawn at random, and does it move away from the negative controls?
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.average_precision import benjamini_hochberg
from mae_jax.evaluation.profiles import ColumnSchema, Profiles


def mean_cosine(rows: Float32[np.ndarray, "rows features"]) -> float:
    """The mean cosine of all pairs among n unit rows: (|Σx|² − Σ|x|²) / (n(n−1))."""
    n = len(rows)
    total = rows.sum(axis=0, dtype=np.float64)
    own = float((rows.astype(np.float64) ** 2).sum())
    return float((total @ total - own) / (n * (n - 1)))


def replicate_consistency(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Do the replicates of each perturbation agree more than as many treated wells at random?

    The statistic is the mean cosine among the replicates; the null draws that many wells from all
    treated wells, without replacement. p = (1 + #{null ≥ statistic})/(1 + permutations).

    Returns:
      One row per perturbation with two or more wells: replicates, consistency, null_mean, p, q.

    Raises:
      InputError: no perturbation has two wells.
    """
    schema = schema or ColumnSchema()
    treated = profiles.take(~profiles.controls(schema.controls))
    treated = treated.take((treated.column(by) != "").to_numpy(dtype=bool))
    rows = l2_normalize(treated.features)
    names, codes = np.unique(treated.metadata[by].to_numpy(dtype=str), return_inverse=True)
    members = {n: np.flatnonzero(codes == i) for i, n in enumerate(names)}
    members = {n: m for n, m in members.items() if len(m) > 1}
    if not members:
        raise InputError(f"No value of {by} has two treated wells, so there are no replicates.")
    nulls = {
        size: _null_consistency(rows, size, permutations, seed)
        for size in {len(m) for m in members.values()}
    }
    found = []
    for name, mine in members.items():
        value, null = mean_cosine(rows[mine]), nulls[len(mine)]
        p = (1 + int((null >= value).sum())) / (1 + permutations)
        found.append((str(name), len(mine), value, float(null.mean()), p))
    table = pd.DataFrame(found, columns=[by, "replicates", "consistency", "null_mean", "p"])
    return table.assign(q=benjamini_hochberg(table["p"].to_numpy()))


def perturbation_strength(
    profiles: Profiles,
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Is each perturbation's mean farther from the controls' mean than that of control wells?

    The statistic is the Euclidean distance between the mean of the perturbation's wells and the
    mean of the negative controls. The null takes, for as many wells, random sets of controls and
    their distance to the mean of the other controls, which has the same noise.
    p = (1 + #{null ≥ statistic})/(1 + permutations).

    Returns:
      One row per perturbation: replicates, strength, null_mean, p, q; p is NaN where there are
      not more controls than replicates.

    Raises:
      InputError: no controls or no treated well.
    """
    schema = schema or ColumnSchema()
    mask = profiles.controls(schema.controls)
    controls = profiles.features[mask].astype(np.float64)
    treated = profiles.take(~mask)
    treated = treated.take((treated.column(by) != "").to_numpy(dtype=bool))
    if not len(treated):
        raise InputError(f"No treated row has a value in {by}.")
    names, codes = np.unique(treated.metadata[by].to_numpy(dtype=str), return_inverse=True)
    centre = controls.mean(axis=0)
    sizes = np.bincount(codes)
    nulls = {
        int(size): _null_strength(controls, int(size), permutations, seed)
        for size in set(sizes)
        if size < len(controls)
    }
    found = []
    for i, name in enumerate(names):
        mean = treated.features[codes == i].mean(axis=0, dtype=np.float64)
        value = float(np.linalg.norm(mean - centre))
        null = nulls.get(int(sizes[i]))
        p, middle = float("nan"), float("nan")
        if null is not None:
            p = (1 + int((null >= value).sum())) / (1 + permutations)
            middle = float(null.mean())
        found.append((str(name), int(sizes[i]), value, middle, p))
    table = pd.DataFrame(found, columns=[by, "replicates", "strength", "null_mean", "p"])
    valid = table["p"].notna().to_numpy()
    q = np.full(len(table), np.nan)
    q[valid] = benjamini_hochberg(table.loc[valid, "p"].to_numpy())
    return table.assign(q=q)


def _null_consistency(
    rows: Float32[np.ndarray, "rows features"], size: int, permutations: int, seed: int
) -> Float[np.ndarray, " permutations"]:
    rng = np.random.default_rng([seed, size])
    draws = (rng.choice(len(rows), size, replace=False) for _ in range(permutations))
    return np.array([mean_cosine(rows[d]) for d in draws])


def _null_strength(
    controls: Float[np.ndarray, "rows features"], size: int, permutations: int, seed: int
) -> Float[np.ndarray, " permutations"]:
    rng = np.random.default_rng([seed, size])
    total, n = controls.sum(axis=0), len(controls)
    out = np.empty(permutations)
    for i in range(permutations):
        drawn = controls[rng.choice(n, size, replace=False)].sum(axis=0)
        out[i] = np.linalg.norm(drawn / size - (total - drawn) / (n - size))
    return out
