"""The choice of z-planes and time points, where a folder's file names have several."""

from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd

from mae_jax.data.image_uri import PROJECTIONS
from mae_jax.errors import InputError, redact_credentials


def choose_plane(
    table: pd.DataFrame, image: Sequence[str], plane: int | str | None, root: str
) -> pd.DataFrame:
    """One z-plane, the projections that the files hold, or a projection over the planes' files.

    Args:
      table: one row per file, with its `path` and `z` ("" for a projection).
      image: the columns that identify an image among its z-planes.
      plane: the number of a plane; 'projection' for files without a z beside those of the planes;
        'max' or 'mean' for a projection that is made whenever the image is read. None takes what
        needs no choice: an only plane, or the projections where every image has one.
      root: the folder, for messages.

    Raises:
      InputError: a choice is needed, or there is no such plane.
    """
    projected = table["z"] == ""
    if plane in PROJECTIONS:
        return _project(table[~projected], table[projected], image, str(plane))
    if projected.all() or not projected.any():
        if projected.all() and plane is not None and plane != "projection":
            return table  # the files themselves hold the planes
        return choose(table, "z", plane, "--plane", root)
    keys = table[list(image)].agg(tuple, axis=1)
    has_projection = keys.isin(set(keys[projected]))
    if plane == "projection" or (plane is None and has_projection.all()):
        return table[projected]
    if plane is None:
        raise InputError(
            f"{redact_credentials(root)} has several values of z "
            f"({', '.join(_listed(table['z'])[:5])}), and not every image has a projection; choose "
            "one with --plane, or --plane max or mean to project them."
        )
    in_plane = pd.Series([number(z) == plane for z in table["z"]], index=table.index)
    if not in_plane.any():
        raise InputError(
            f"{redact_credentials(root)} has no z {plane}; it has {', '.join(_listed(table['z']))}."
        )
    # A channel of one plane is written without a z.
    single = projected & ~keys.isin(set(keys[~projected]))
    return table[in_plane | single]


def _project(
    planes: pd.DataFrame, others: pd.DataFrame, image: Sequence[str], method: str
) -> pd.DataFrame:
    """One row per image, whose URI is a projection over the files of its planes."""
    if planes.empty:
        return others
    order = planes["z"].map(lambda z: (int(z), "") if z.isdecimal() else (0, z))
    planes = planes.loc[order.sort_values(kind="stable").index]
    rows = []
    for _, of_image in planes.groupby(list(image), sort=False):
        row = of_image.iloc[0].to_dict()
        if len(of_image) > 1:
            further = ",".join(quote(path, safe="") for path in of_image["path"].iloc[1:])
            row["path"] = f"{row['path']}#project={method}&planes={further}"
        rows.append({**row, "z": method})
    projected = pd.DataFrame(rows)
    keys = set(projected[list(image)].itertuples(index=False, name=None))
    # A channel of one plane is written without a z.
    single = [key not in keys for key in others[list(image)].itertuples(index=False, name=None)]
    return pd.concat([projected, others[single]], ignore_index=True)


def choose(
    table: pd.DataFrame, column: str, wanted: int | str | None, option: str, root: str
) -> pd.DataFrame:
    """The rows with one value of a column, which must be chosen where there are several.

    Raises:
      InputError: there are several values and none is chosen, or the one chosen is not there.
    """
    values = _listed(table[column])
    if wanted is not None:
        table = table[[number(value) == wanted for value in table[column]]]
        if table.empty:
            raise InputError(
                f"{redact_credentials(root)} has no {column} {wanted}; it has {', '.join(values)}."
            )
        return table
    if len(values) > 1:
        more = ", or --plane max or mean to project them" if column == "z" else ""
        raise InputError(
            f"{redact_credentials(root)} has several values of {column} "
            f"({', '.join(values[:5])}); choose one with {option}{more}."
        )
    return table


def number(text: str) -> int | str:
    """The text as an integer where it is one."""
    return int(text) if text.isdecimal() else text


def _listed(values: pd.Series) -> list[str]:
    """The distinct values, numbers first and in their order; '' is a projection."""
    key = [(not value.isdecimal(), int(value) if value.isdecimal() else 0, value)
           for value in values.unique()]  # fmt: skip
    return [value or "projection" for _, _, value in sorted(key)]
