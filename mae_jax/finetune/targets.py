"""What an encoder learns to predict: classes, several labels at once, or numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.config import nearest
from mae_jax.errors import InputError

SEPARATOR = "|"  # between the labels of one cell
Kind = Literal["classes", "multilabel", "regression"]


@dataclass(frozen=True)
class Targets:
    """The labels of all rows of an index.

    Attributes:
      kind: what they are.
      names: the classes, the labels, or the columns of numbers: one per output of the head.
      values: one row per row of the index. Classes and several labels are 0 or 1 in each column,
        numbers are as in the table; NaN where a row has no label.
    """

    kind: Kind
    names: tuple[str, ...]
    values: Float[np.ndarray, "rows outputs"]

    @property
    def labelled(self) -> np.ndarray:
        """For each row whether it has a label."""
        return np.isfinite(self.values).any(axis=1)

    @property
    def codes(self) -> np.ndarray:
        """The class of each row as an index into `names`; -1 without one."""
        return np.where(self.labelled, np.nan_to_num(self.values).argmax(axis=1), -1)


def read_targets(table: pd.DataFrame, columns: Sequence[str], task: str = "auto") -> Targets:
    """The targets of an index's table.

    One column of names gives classes, or several labels where a value holds some separated by "|".
    One column of numbers that are not all whole gives a regression. Several columns give several
    labels if all their values are 0 or 1, else a regression. `task` says so where that is not
    what is wanted. Rows with an empty value have no label.

    Args:
      columns: metadata columns; "Metadata_" may be left out.

    Raises:
      InputError: there is no such column, a column has no values, or its values do not fit `task`.
    """
    columns = [_column(table, name) for name in columns]
    texts = table[columns].astype(str).apply(lambda column: column.str.strip())
    if (texts == "").all(axis=None):
        raise InputError(f"the column {columns[0]} is empty; name another one with --labels.")
    kind = _kind(texts, columns) if task == "auto" else task
    if kind == "regression" or (kind == "multilabel" and len(columns) > 1):
        values = np.stack([_numbers(texts[c], c, kind) for c in columns], axis=1)
        return Targets(kind, tuple(columns), values)  # type: ignore[arg-type]
    if len(columns) > 1:
        raise InputError(
            f"classes stand in one column, not in {len(columns)} ({', '.join(columns)}); name one, "
            "or give --task multilabel or regression."
        )
    parts = [
        {part.strip() for part in text.split(SEPARATOR)} - {""} if kind == "multilabel" else {text}
        for text in texts[columns[0]]
    ]
    names = sorted(set().union(*parts) - {""})
    if len(names) < 2 and kind == "classes":
        raise InputError(
            f"all labelled rows have the same {columns[0]} ('{names[0]}'); there is nothing to "
            "tell apart."
        )
    numbers = {name: number for number, name in enumerate(names)}
    values = np.full((len(parts), len(names)), np.nan)
    for row, labels in enumerate(parts):
        if labels - {""}:
            values[row] = 0.0
            values[row, [numbers[label] for label in labels]] = 1.0
    return Targets("multilabel" if kind == "multilabel" else "classes", tuple(names), values)


def _column(table: pd.DataFrame, name: str) -> str:
    for column in (name, f"Metadata_{name}"):
        if column in table.columns:
            return column
    known = [column for column in table.columns if column.startswith("Metadata_")]
    raise InputError(f"the index has no column '{name}': {nearest(name, known)}")


def _kind(texts: pd.DataFrame, columns: Sequence[str]) -> Kind:
    given = pd.unique(texts.to_numpy().ravel())
    given = given[given != ""]
    numbers = pd.to_numeric(pd.Series(given), errors="coerce")
    if len(columns) > 1:
        return "multilabel" if numbers.isin([0, 1]).all() else "regression"
    if any(SEPARATOR in text for text in given):
        return "multilabel"
    whole = numbers.isna().any() or (numbers % 1 == 0).all()
    return "classes" if whole else "regression"


def _numbers(texts: pd.Series, column: str, kind: str) -> np.ndarray:
    values = pd.to_numeric(texts.where(texts != ""), errors="coerce").to_numpy(float)
    wrong = (texts != "").to_numpy() & ~np.isfinite(values)
    if kind == "multilabel":
        wrong |= np.isfinite(values) & ~np.isin(values, [0, 1])
    if wrong.any():
        row = int(wrong.argmax())
        expected = "0 or 1" if kind == "multilabel" else "a number"
        raise InputError(
            f"row {row} of the index has {column} '{texts.iloc[row]}', which is not {expected}; "
            "correct it, leave it empty, or give another --task."
        )
    return values
