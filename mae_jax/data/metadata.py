"""From a source's own metadata columns to the index's: strings, with all originals kept."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mae_jax.data.index import METADATA
from mae_jax.data.well_names import normalize_well_name, well_name
from mae_jax.errors import InputError

# The first of these that has a value in a row gives the row's value.
SOURCES: Mapping[str, Sequence[str]] = {
    "Metadata_Source": (),
    "Metadata_Experiment": ("Metadata_Batch", "Metadata_experiment", "Metadata_experiment_name"),
    "Metadata_Plate": ("Metadata_PlateID", "Metadata_plate", "Metadata_Assay_Plate_Barcode"),
    "Metadata_Well": (
        "Metadata_WellID",
        "Metadata_well",
        "Metadata_address",
        "Metadata_well_position",
    ),
    "Metadata_Site": ("Metadata_site", "Metadata_Field", "Metadata_FieldID", "Metadata_field_id"),
    "Metadata_Perturbation": (
        "Metadata_perturbation",
        "Metadata_broad_sample",
        "Metadata_JCP2022",
        "Metadata_pert_iname",
        "Metadata_treatment",
        "Metadata_sirna",
        "Metadata_compound",
        "Metadata_Gene",
        "Metadata_gene",
        "Metadata_Class",
    ),
    "Metadata_Gene": ("Metadata_gene", "Metadata_Symbol", "Metadata_gene_symbol"),
    "Metadata_ControlType": ("Metadata_control_type", "Metadata_controltype"),
}
# Names that rows and columns of plates have in platemaps, in lower case.
_ROWS = ("row", "wellrow", "well_row", "plate_row")
_COLUMNS = ("col", "column", "wellcol", "wellcolumn", "well_col", "well_column", "plate_column")
# The words of RxRx1's well_type and RxRx3's treatment, and those used here.
_CONTROLS = {
    "Metadata_well_type": {"negative_control": "negcon", "positive_control": "poscon"},
    "Metadata_treatment": {"EMPTY_control": "negcon", "CRISPR_control": "control"},
    "Metadata_pert_type": {"negcon": "negcon", "poscon": "poscon"},  # JUMP's
}


def complete(
    table: pd.DataFrame, where: str, metadata_value: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The table with every column of `METADATA`, filled from the source's own columns.

    `metadata_value` sets columns to one value for all rows (`Metadata_Experiment` for a folder that
    does not name it). Wells are normalized; a site that nothing names is '1'; an experiment that
    nothing names is '1' too, so that a single plate needs no more than its images. Rows with a
    `Metadata_Sample` and no well are samples that are no wells of plates: the sample's name takes
    the well's place, and a plate that nothing names is '1'.

    Raises:
      InputError: a plate or a well is not named anywhere, or a well's name makes no sense.
    """
    table = table.copy()
    for column, value in (metadata_value or {}).items():
        if not column.startswith("Metadata_"):
            raise InputError(f"'{column}' is no metadata column; write Metadata_{column}={value}.")
        table[column] = value
    for column in table.columns:
        if column.startswith("Metadata_"):
            table[column] = table[column].astype("object").fillna("").astype(str).str.strip()
    for column, others in SOURCES.items():
        if metadata_value and column in metadata_value:
            continue
        values = table[column] if column in table.columns else pd.Series("", index=table.index)
        for other in others:
            if other in table.columns:
                values = values.where(values != "", table[other])
        table[column] = values
    for column, words in _CONTROLS.items():
        if column in table.columns and not (
            metadata_value and "Metadata_ControlType" in metadata_value
        ):
            given = table["Metadata_ControlType"]
            table["Metadata_ControlType"] = given.where(
                given != "", table[column].map(words).fillna("")
            )
            # RxRx3 writes the name of the control in the column of genes.
            table["Metadata_Gene"] = table["Metadata_Gene"].where(
                ~table["Metadata_Gene"].isin(words), ""
            )
    if (table["Metadata_Well"] == "").all():
        wells_of_rows = _wells_by_row_and_column(table, where)
        if wells_of_rows is not None:
            table["Metadata_Well"] = wells_of_rows
    sample = pd.Series(False, index=table.index)
    if "Metadata_Sample" in table.columns:
        names, well = table["Metadata_Sample"], table["Metadata_Well"]
        sample = (names != "") & ((well == "") | (well == names))
        table["Metadata_Well"] = well.where(~sample, names)
        table["Metadata_Plate"] = table["Metadata_Plate"].where(
            ~sample | (table["Metadata_Plate"] != ""), "1"
        )
    for column in ("Metadata_Plate", "Metadata_Well"):
        empty = table[column] == ""
        if empty.any():
            row = int(empty.to_numpy().argmax())
            tried = ", ".join((column, *SOURCES[column]))
            raise InputError(
                f"row {row + 1} of {where} names no {column[9:].lower()}: none of the columns "
                f"{tried} has a value; add one, or give it for all rows with --metadata-value "
                f"{column}=NAME."
            )
    wells = {}
    for name in table["Metadata_Well"][~sample].unique():
        try:
            wells[name] = normalize_well_name(name)
        except InputError as error:
            row = int((table["Metadata_Well"] == name).to_numpy().argmax())
            raise InputError(f"row {row + 1} of {where}: {error}") from None
    table["Metadata_Well"] = table["Metadata_Well"].where(sample, table["Metadata_Well"].map(wells))
    for column in ("Metadata_Site", "Metadata_Experiment"):
        table[column] = table[column].where(table[column] != "", "1")
    if "Metadata_Split" not in table.columns:
        table["Metadata_Split"] = "train"
    rest = [c for c in table.columns if c.startswith("Metadata_") and c not in METADATA]
    return table[[*METADATA, *rest, *(c for c in table.columns if not c.startswith("Metadata_"))]]


def _wells_by_row_and_column(table: pd.DataFrame, where: str) -> list[str] | None:
    """The wells' names by the columns for row (a number or letters) and column, if it has both."""
    names = {str(c).removeprefix("Metadata_").lower(): str(c) for c in table.columns}
    row = next((names[name] for name in _ROWS if name in names), None)
    column = next((names[name] for name in _COLUMNS if name in names), None)
    if row is None or column is None:
        return None
    wells = []
    for r, c in zip(table[row], table[column], strict=True):
        try:
            letters, number = str(r).strip(), str(int(float(c)))
            wells.append(
                well_name(int(float(letters)), int(number))
                if letters[:1].isdigit()
                else normalize_well_name(letters + number)
            )
        except ValueError as error:  # InputError is one too
            raise InputError(f"{where}: row '{r}', column '{c}' is no well ({error}).") from None
    return wells


def join(table: pd.DataFrame, extra: pd.DataFrame, where: str) -> pd.DataFrame:
    """Adds the columns of a platemap or annotation table to the sites, by what both name.

    The join goes by those of source, experiment, plate, well and site that `extra` names; wells may
    be named by row and column, and samples by `Metadata_Sample`. A column that the sites already
    have is replaced where `extra` has a value.

    Raises:
      InputError: `extra` names no well, names one twice with different values, or shares no row
        with the sites.
    """
    extra = extra.rename(columns={c: metadata_name(c) for c in extra.columns})
    for column in ("Metadata_Experiment", "Metadata_Plate", "Metadata_Well", "Metadata_Site"):
        for other in SOURCES[column]:
            if column not in extra.columns and other in extra.columns:
                extra = extra.rename(columns={other: column})
    extra = extra.astype("object").fillna("").astype(str)
    if "Metadata_Well" not in extra.columns:
        if "Metadata_Sample" in extra.columns:
            extra["Metadata_Well"] = extra["Metadata_Sample"]
        elif (wells := _wells_by_row_and_column(extra, where)) is not None:
            extra["Metadata_Well"] = wells
        else:
            raise InputError(
                f"{where} names no wells; it needs a column Metadata_Well, or Row and Column."
            )
    samples = set(table["Metadata_Sample"]) if "Metadata_Sample" in table.columns else set()
    try:
        extra["Metadata_Well"] = [
            name if name in samples else normalize_well_name(name)
            for name in extra["Metadata_Well"]
        ]
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    order = (
        "Metadata_Source", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well",
        "Metadata_Site",
    )  # fmt: skip
    # A well's plate as the images tell it counts only where the annotation names plates too.
    keys = [c for c in order if c in extra.columns and (extra[c] != "").any()]
    if (table.get("Metadata_Source", pd.Series([""])) == "").all() and "Metadata_Source" in keys:
        keys.remove("Metadata_Source")  # the images do not tell it
    extra = extra.drop_duplicates()
    twice = extra[extra.duplicated(keys)]
    if len(twice):
        names = ", ".join(f"{k[9:].lower()} {twice.iloc[0][k]}" for k in keys)
        raise InputError(f"{where} has conflicting values for {names}; keep one.")
    joined = table.merge(extra, on=keys, how="left", suffixes=("", "\n"))
    for column in [c for c in joined.columns if c.endswith("\n")]:
        value = joined.pop(column).fillna("")
        joined[column[:-1]] = value.where(value != "", joined[column[:-1]])
    for column in extra.columns:
        joined[column] = joined[column].fillna("")
    if not set(extra[keys].itertuples(index=False, name=None)) & set(
        table[keys].itertuples(index=False, name=None)
    ):
        first = ", ".join(f"{k[9:].lower()} {table.iloc[0][k]}" for k in keys)
        other = ", ".join(f"{k[9:].lower()} {extra.iloc[0][k]}" for k in keys)
        raise InputError(
            f"{where} names none of the images' wells: they are as {first}, and it has {other}; "
            "correct its names."
        )
    return joined


def metadata_name(column: str) -> str:
    """`Metadata_…` for a column of an annotation table, with the capitals of the index's own."""
    names = ("Well", "Plate", "Experiment", "Batch", "Site", "Source", "Sample", "Gene", "Class")
    if column.startswith("Metadata_"):
        return column
    known = {name.lower(): name for name in names}
    return f"Metadata_{known.get(column.lower(), column)}"
