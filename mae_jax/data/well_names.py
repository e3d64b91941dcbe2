"""Names of wells: `b7`, `B07`, `B007` and row 2, column 7 are one well, written `B07`."""

import re
from collections.abc import Sequence

from mae_jax.errors import InputError

_WELL = re.compile(r"([A-Za-z]{1,2})[ _-]?0*([0-9]{1,2})")


def well_name(row: int, column: int) -> str:
    """The name of the well in `row` and `column`, both counted from 1: (32, 48) is 'AF48'."""
    if not (1 <= row <= 32 and 1 <= column <= 48):
        raise InputError(f"row {row}, column {column} is outside a plate of 32 × 48 wells.")
    letters = chr(ord("A") + row - 1) if row <= 26 else "A" + chr(ord("A") + row - 27)
    return f"{letters}{column:02d}"


def normalize_well_name(name: str) -> str:
    """`name` in the one spelling used here: upper case, column of two digits ('a1' -> 'A01').

    Raises:
      InputError: `name` is no well of a plate of up to 1,536 wells (A01 to AF48).
    """
    match = _WELL.fullmatch(name.strip())
    if match:
        letters, column = match[1].upper(), int(match[2])
        row = ord(letters[-1]) - ord("A") + 1 + 26 * (len(letters) - 1)
        if (len(letters) == 1 or letters[0] == "A") and row <= 32 and 1 <= column <= 48:
            return f"{letters}{column:02d}"
    raise InputError(f"'{name}' is not a well name; expected one from A01 to AF48.")


def row_and_column(name: str) -> tuple[int, int]:
    """Row and column of a well, both counted from 0: 'B07' is (1, 6).

    Raises:
      InputError: `name` is no well of a plate of up to 1,536 wells.
    """
    name = normalize_well_name(name)
    letters = name[:-2]
    return ord(letters[-1]) - ord("A") + 26 * (len(letters) - 1), int(name[-2:]) - 1


def plate_size(places: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Rows and columns of the smallest usual plate (6 to 1,536 wells) that has all these wells."""
    rows = max((row for row, _ in places), default=0) + 1
    columns = max((column for _, column in places), default=0) + 1
    for height, width in ((2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24)):
        if rows <= height and columns <= width:
            return height, width
    return 32, 48
