"""Splits into training and validation by whole experiments, or by plates of a single one."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from mae_jax.config import nearest
from mae_jax.errors import InputError


def with_split(
    table: pd.DataFrame,
    *,
    experiments: Sequence[str] = (),
    fraction: float | None = None,
    plates: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """The table with `Metadata_Split` set: whole experiments go to validation, never parts of one.

    Batch effects are shared within an experiment, so a split inside one would leak. Experiments
    are named, or a `fraction` of them is drawn by a hash of their names, which never changes when
    experiments are added; at least one of several goes to each side. `plates` is the way out
    where there is one experiment only: the named plates go to validation.

    Raises:
      InputError: a name that the table does not hold, plates named though there are several
        experiments, or nothing left to train on.
    """
    known = sorted(table["Metadata_Experiment"].unique())
    for name in experiments:
        if name not in known:
            raise InputError(
                f"there is no experiment '{name}' to validate on: {nearest(name, known)}"
            )
    if plates and len(known) > 1:
        raise InputError(
            f"with {len(known)} experiments the split goes by experiment, or plates of one "
            f"experiment would leak into validation; name one of {', '.join(known)} instead."
        )
    for name in plates:
        have = sorted(table["Metadata_Plate"].unique())
        if name not in have:
            raise InputError(f"there is no plate '{name}' to validate on: {nearest(name, have)}")
    chosen = set(experiments)
    if fraction is not None:
        if not 0 <= fraction < 1:
            raise InputError(f"the share of validation must be from 0 up to 1, not {fraction}.")
        rank = {
            name: int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) / 2**64
            for name in known
        }
        drawn = {name for name in known if rank[name] < fraction}
        if fraction > 0 and len(known) > 1:
            drawn = drawn or {min(known, key=rank.__getitem__)}
            if len(drawn) == len(known):
                drawn.remove(max(known, key=rank.__getitem__))
            chosen |= drawn
    held_out = table["Metadata_Experiment"].isin(chosen) | table["Metadata_Plate"].isin(plates)
    if held_out.all() and len(table):
        raise InputError("every site would go to validation; leave an experiment to train on.")
    split = held_out.map({True: "validation", False: "train"})
    return table.assign(Metadata_Split=split)
