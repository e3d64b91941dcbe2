"""Nulls from perturbations that are known to do nothing, such as guides of unexpressed genes.

`efaar_signals` is EFAAR's perturbation benchmark of October 2024: a perturbation's consistency and
magnitude are compared with those of inert perturbations. It pools plates, so that it is calibrated
only where inert and other perturbations lie on plates alike. `against_inert` compares scores that
were standardized with a null of the same plates (`z` of `replicates`), which offsets between plates
do not bias.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.errors import InputError
from mae_jax.evaluation.aggregation import l2_normalize
from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.evaluation.replicates import MAX_CONTROLS, adjusted, groups_of, mean_cosine

GENERATION = "EFAAR of October 2024"
MIN_MAGNITUDE_REPLICATES = 5


def inert_perturbations(
    values: Sequence[str], profiles: Profiles, by: str = "Metadata_Perturbation"
) -> frozenset[str]:
    """The inert perturbations among those of the profiles.

    Args:
      values: names; or one file with a name per line; or one COLUMN=VALUE|VALUE, which selects
        the perturbations of the rows that have such a value.
      profiles: wells.
      by: the column of the perturbation.

    Raises:
      InputError: a file that cannot be read, or fewer than two of them have wells.
    """
    present = profiles.column(by).astype(str)
    names = set(values)
    if len(values) == 1 and values[0].partition("=")[0] in profiles.metadata:
        column, _, wanted = values[0].partition("=")
        names = set(present[profiles.metadata[column].isin(wanted.split("|")).to_numpy(bool)])
    elif len(values) == 1 and Path(values[0]).is_file():
        try:
            lines = Path(values[0]).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise InputError(f"{values[0]} is not a text file with a name per line.") from None
        names = {line.strip() for line in lines}
    found = (names & set(present)) - {""}
    if len(found) < 2:
        raise InputError(
            f"{len(found)} of the {len(names)} inert perturbations have wells in column {by}, and "
            "a null needs many; give names, a file with a name per line, or COLUMN=VALUE."
        )
    return frozenset(found)


def against_inert(
    table: pd.DataFrame, statistic: str, inert: Collection[str], by: str = "Metadata_Perturbation"
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """p and q of a table's statistic against its values for the inert perturbations.

    p = (1 + #{inert ≥ value})/(1 + inert); Benjamini–Hochberg. NaN for the inert themselves.

    Raises:
      InputError: no inert perturbation has a value.
    """
    values = table[statistic].to_numpy(np.float64)
    is_inert = table[by].isin(inert).to_numpy(dtype=bool)
    null = np.sort(values[is_inert & np.isfinite(values)])
    if not len(null):
        raise InputError(
            f"no inert perturbation has a {statistic}; name perturbations with several replicates."
        )
    reached = len(null) - np.searchsorted(null, values, side="left")
    p = np.where(is_inert | ~np.isfinite(values), np.nan, (1 + reached) / (1 + len(null)))
    return p, adjusted(pd.Series(p))


def efaar_signals(
    profiles: Profiles,
    inert: Collection[str],
    *,
    by: str = "Metadata_Perturbation",
    schema: ColumnSchema | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """EFAAR's perturbation consistency and magnitude (October 2024), and calibrated p beside.

    Consistency is the mean cosine of all pairs of a perturbation's wells (2 or more). Magnitude is
    the energy distance "efaar" between its wells (5 or more) and at most 1,000 negative controls
    of any plate, drawn once (there without a seed).

    Args:
      profiles: corrected wells.
      inert: the inert perturbations.
      by, schema: name the columns and the controls.
      seed: of the draw of controls.

    Returns:
      One row per perturbation that is not inert: replicates, and for `consistency` and `magnitude`
      the value, and `<name>_p_efaar` = #{inert ≥ value}/n (magnitude: >), EFAAR's, which can be 0
      and is not corrected; `<name>_p` = (1 + #{inert ≥ value})/(1 + n) and `<name>_q` (Benjamini–
      Hochberg). Inert perturbations with too few wells do not count in n, as they do there.

    Raises:
      InputError: no controls, or no inert perturbation with two wells.
    """
    schema = schema or ColumnSchema()
    is_control = profiles.controls(schema.controls)
    controls = profiles.features[is_control].astype(np.float64)
    if len(controls) > MAX_CONTROLS:
        rows = np.random.default_rng(seed).choice(len(controls), MAX_CONTROLS, replace=False)
        controls = controls[np.sort(rows)]
    magnitude = _Magnitude(controls)
    unit = l2_normalize(profiles.features)
    treated = ~is_control & (profiles.column(by) != "").to_numpy(dtype=bool)
    rows_of = []
    for name, wells in groups_of(profiles, by, treated):
        several, enough = len(wells) > 1, len(wells) >= MIN_MAGNITUDE_REPLICATES
        rows_of.append(
            {
                by: name,
                "replicates": len(wells),
                "consistency": mean_cosine(unit[wells]) if several else np.nan,
                "magnitude": magnitude(profiles.features[wells]) if enough else np.nan,
            }
        )
    table = pd.DataFrame(rows_of)
    is_inert = table[by].isin(inert).to_numpy(dtype=bool)
    for name, side in (("consistency", "left"), ("magnitude", "right")):
        values = table[name].to_numpy(np.float64)
        null = np.sort(values[is_inert & np.isfinite(values)])
        columns = [f"{name}_p_efaar", f"{name}_p", f"{name}_q"]
        if not len(null):  # too few wells of each inert perturbation
            table[columns] = np.nan
            continue
        above = len(null) - np.searchsorted(
            null, values, side="left" if side == "left" else "right"
        )
        table[columns[0]] = np.where(np.isfinite(values), above / len(null), np.nan)
        table[columns[1]], table[columns[2]] = against_inert(table, name, inert, by)
    if table["consistency_p"].isna().all():
        raise InputError("no inert perturbation has two wells; name others.")
    return table[~is_inert].reset_index(drop=True)


class _Magnitude:
    """The energy distance "efaar" to fixed controls, whose own distances are summed once."""

    def __init__(self, controls: Float[np.ndarray, "controls features"]) -> None:
        from scipy.spatial.distance import pdist

        self.controls = controls
        self.within = 2 * float(pdist(controls).sum()) / len(controls) ** 2

    def __call__(self, rows: Float[np.ndarray, "wells features"]) -> float:
        from scipy.spatial.distance import cdist, pdist

        rows = rows.astype(np.float64)
        own = 2 * float(pdist(rows).sum()) / len(rows) ** 2
        return 2 * float(cdist(rows, self.controls).mean()) - own - self.within
