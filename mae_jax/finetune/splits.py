"""Which wells train, which stop the training, and which are held out for the test."""

import numpy as np
import pandas as pd

from mae_jax.config import nearest
from mae_jax.data.index import WELL
from mae_jax.errors import InputError
from mae_jax.finetune.config import FineTuneConfig
from mae_jax.finetune.targets import Targets

PARTS = ("train", "validation", "test")
_GROUPS = {"well": list(WELL), "plate": list(WELL[:3]), "experiment": list(WELL[:2])}


def split_wells(
    table: pd.DataFrame, targets: Targets, config: FineTuneConfig
) -> tuple[pd.Series, str]:
    """The part of each row, "" for rows without a label, and the name of what was held out.

    Whole groups are held out for the test. Of wells, the same share of every class is; of plates
    and larger groups, a random share that leaves some. The validation wells that stop the training
    early are taken from what remains, well by well, the same share of every class; every class
    keeps a well to train on.

    Raises:
      InputError: no such column, one group only, or too few wells.
    """
    labelled = targets.labelled
    wells = _codes(table, _GROUPS["well"])
    strata = targets.codes if targets.kind == "classes" else np.where(labelled, 0, -1)
    rng = np.random.default_rng(config.seed)
    name = _resolve(table, targets, wells, config)
    if name == "split":
        held_out = (table["Metadata_Split"] == "validation").to_numpy() & labelled
        if not held_out.any() or held_out[labelled].all():
            raise InputError(
                "the index's own split has no labelled site to train on or to hold out; index with "
                "--validation, or give another --holdout."
            )
    elif name == "well":
        held_out = _draw_wells(wells, strata, labelled, config.test_fraction, rng)
    else:
        held_out = _draw_groups(_group(table, name), labelled, config.test_fraction, name, rng)
    rest = labelled & ~held_out
    validation = _draw_wells(wells, strata, rest, config.validation_fraction, rng)
    parts = np.full(len(table), "", object)
    for part, rows in (("train", rest & ~validation), ("validation", validation),
                       ("test", held_out)):  # fmt: skip
        if not rows.any():
            raise InputError(
                f"there are too few labelled wells ({len(np.unique(wells[labelled]))}) to keep "
                f"some for {part}; label more, or hold out other wells with --holdout."
            )
        parts[rows] = part
    return pd.Series(parts, index=table.index), name


def _resolve(
    table: pd.DataFrame, targets: Targets, wells: np.ndarray, config: FineTuneConfig
) -> str:
    if config.holdout != "auto":
        return config.holdout
    plates = _group(table, "plate")[targets.labelled]
    if targets.kind != "classes":
        return "plate" if len(np.unique(plates)) > 1 else "well"
    pairs = pd.DataFrame({"plate": plates, "class": targets.codes[targets.labelled]})
    return "plate" if pairs.groupby("class")["plate"].nunique().min() > 1 else "well"


def _group(table: pd.DataFrame, name: str) -> np.ndarray:
    if name in _GROUPS:
        return _codes(table, _GROUPS[name])
    for column in (name, f"Metadata_{name}"):
        if column in table.columns:
            return _codes(table, [column])
    known = [*_GROUPS, "split", *(c for c in table.columns if c.startswith("Metadata_"))]
    raise InputError(f"wells cannot be held out by '{name}': {nearest(name, known)}")


def _codes(table: pd.DataFrame, columns: list[str]) -> np.ndarray:
    return table.groupby(columns, sort=True, dropna=False).ngroup().to_numpy()


def _draw_groups(
    groups: np.ndarray, rows: np.ndarray, fraction: float, name: str, rng: np.random.Generator
) -> np.ndarray:
    known = np.unique(groups[rows])
    if len(known) < 2:
        raise InputError(
            f"the labelled wells are of one {name} only, which cannot be held out; give "
            "--holdout well."
        )
    count = min(max(1, round(fraction * len(known))), len(known) - 1)
    return rows & np.isin(groups, rng.permutation(known)[:count])


def _draw_wells(
    wells: np.ndarray,
    strata: np.ndarray,
    rows: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """The rows of a share of the wells, the same of every stratum, at least one left in each.

    Where no stratum has wells enough for its share, one is taken of the largest.
    """
    drawn: list[int] = []
    largest: np.ndarray = np.array([], int)
    for stratum in np.unique(strata[rows]):
        of_stratum = rng.permutation(np.unique(wells[rows & (strata == stratum)]))
        largest = max(largest, of_stratum, key=len)
        share = fraction * len(of_stratum)
        # A remainder is drawn by chance: of three wells a fifth is one in three of five classes.
        count = int(share) + int(rng.random() < share % 1)
        drawn += of_stratum[: min(count, len(of_stratum) - 1)].tolist()
    if not drawn and len(largest) > 1:
        drawn = [int(largest[0])]
    return rows & np.isin(wells, drawn)
