"""Quality of images site by site: a table of columns, and findings that compare sites and wells."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mae_jax.data.image_quality import ImageQuality, robust_z
from mae_jax.data.index import SITE, Index
from mae_jax.data.nuclei import EMPTY
from mae_jax.data.well_names import plate_size, row_and_column
from mae_jax.errors import InputError

BLURRED_Z = -5.0  # robust z of the focus within plate and channel
BLURRED_STEP = 0.5  # and at least so much below their median
FEWEST_IMAGES = 12  # of a plate and channel, for a comparison among them
EDGE_EFFECT = 0.1  # relative difference of edge wells that is worth a note
EDGE_P = 0.001
_FEWEST_WELLS = 8  # at the edge and inside
PLATE = ("Metadata_Source", "Metadata_Experiment", "Metadata_Plate")


class Measured(NamedTuple):
    """The measures of one image: its site's row, its channel, and the nuclei on a DNA stain."""

    row: int
    channel: str
    quality: ImageQuality
    nuclei: int | None


class Note(NamedTuple):
    """A finding about a site or a plate: (category, row of the index, channel, sentence)."""

    category: str
    row: int
    channel: str
    message: str


def site_table(index: Index, measured: Sequence[Measured]) -> pd.DataFrame:
    """One row per site with its quality as columns.

    `QC_Mean_<channel>`, `QC_Focus_`, `QC_Sharpness_`, `QC_Structure_` and `QC_Saturated_` are those
    of `ImageQuality`; `QC_OutOfFocus_<channel>` and `QC_Empty` say what is found conspicuous;
    `QC_NucleusCount` is there where a channel is a DNA stain and scikit-image is installed;
    `QC_EdgeWell` tells the outermost rows and columns of the plate, and `QC_EdgeEffect_<channel>`
    by how much the edge wells of the plate differ from its others, relative to these.
    """
    table = index.table[list(SITE)].copy()
    for name, value in (("Mean", "mean"), ("Focus", "focus"), ("Sharpness", "sharpness"),
                        ("Structure", "structure"), ("Saturated", "saturated")):  # fmt: skip
        for channel in index.channels:
            values = np.full(len(table), np.nan)
            for one in measured:
                if one.channel == channel:
                    values[one.row] = getattr(one.quality, value)
            table[f"QC_{name}_{channel}"] = values
    counts = np.full(len(table), np.nan)
    for one in measured:
        if one.nuclei is not None:
            counts[one.row] = one.nuclei
    if np.isfinite(counts).any():
        table["QC_NucleusCount"] = counts
    for channel in index.channels:
        table[f"QC_OutOfFocus_{channel}"] = _out_of_focus(table, channel)
    structures = table[[f"QC_Structure_{channel}" for channel in index.channels]]
    table["QC_Empty"] = (structures.isna() | (structures < EMPTY)).all(axis=1) & (
        structures.notna().any(axis=1)
    )
    if index.has_plates:
        table["QC_EdgeWell"] = _edge_wells(table)
        for channel in index.channels:
            table[f"QC_EdgeEffect_{channel}"] = np.nan
            for _, rows, effect, _ in edge_effects(table, channel):
                table.loc[rows, f"QC_EdgeEffect_{channel}"] = effect
    return table


def notes(index: Index, table: pd.DataFrame) -> Iterator[Note]:
    """What is conspicuous in a site table, one sentence each."""
    for row in np.flatnonzero(table["QC_Empty"]).tolist():
        message = f"{index.describe(row)} looks empty: no channel shows more than noise."
        yield Note("empty field", row, "", message)
    for channel in index.channels:
        for row in np.flatnonzero(table[f"QC_OutOfFocus_{channel}"]).tolist():
            focus = table[f"QC_Focus_{channel}"].iloc[row]
            message = (
                f"{index.describe(row)}, channel {channel} looks out of focus: the slope of its "
                f"power spectrum is {focus:.2f}, far below that of its plate."
            )
            yield Note("out of focus", row, channel, message)
    if "QC_EdgeWell" not in table.columns:
        return
    for channel in index.channels:
        for plate, rows, effect, p in edge_effects(table, channel):
            if abs(effect) >= EDGE_EFFECT and p < EDGE_P:
                message = (
                    f"plate {plate}: in channel {channel} the edge wells are {abs(effect):.0%} "
                    f"{'brighter' if effect > 0 else 'darker'} than the others (p = {p:.1g})."
                )
                yield Note("edge effect", int(rows[0]), channel, message)


def _out_of_focus(table: pd.DataFrame, channel: str) -> np.ndarray:
    flagged = np.zeros(len(table), bool)
    focus = table[f"QC_Focus_{channel}"].to_numpy()
    for indices in table.groupby(list(PLATE), sort=False).indices.values():
        rows = np.asarray(indices)
        rows = rows[np.isfinite(focus[rows]) & ~_shows_nothing(table, channel, rows)]
        if len(rows) >= FEWEST_IMAGES:
            below = focus[rows] < np.median(focus[rows]) - BLURRED_STEP
            flagged[rows] = below & (robust_z(focus[rows]) < BLURRED_Z)
    return flagged


def _shows_nothing(table: pd.DataFrame, channel: str, rows: np.ndarray) -> np.ndarray:
    return table[f"QC_Structure_{channel}"].to_numpy()[rows] < EMPTY


def _edge_wells(table: pd.DataFrame) -> np.ndarray:
    """Whether each site lies in the outermost rows or columns of its plate."""
    edge = np.zeros(len(table), bool)
    for rows in table.groupby(list(PLATE), sort=False).indices.values():
        try:
            places = [row_and_column(name) for name in table["Metadata_Well"].iloc[rows]]
        except InputError:  # samples among wells
            continue
        height, width = plate_size(places)
        edge[rows] = [r in (0, height - 1) or c in (0, width - 1) for r, c in places]
    return edge


def edge_effects(
    table: pd.DataFrame, channel: str
) -> Iterator[tuple[str, np.ndarray, float, float]]:
    """For each plate: its name, its rows, the effect on a channel's mean, and its p-value.

    The effect is (median over edge wells) / (median over the others) − 1 of the wells' mean gray
    values, the p-value that of the two-sided Mann–Whitney test. Plates with fewer than 8 wells on
    either side are left out.
    """
    from scipy.stats import mannwhitneyu

    for indices in table.groupby(list(PLATE), sort=False).indices.values():
        rows = np.asarray(indices)
        of_plate: Any = table.iloc[rows]
        by_well = of_plate.groupby("Metadata_Well").agg(
            mean=(f"QC_Mean_{channel}", "mean"), edge=("QC_EdgeWell", "first")
        )
        by_well = by_well[by_well["mean"].notna()]
        outer = by_well["mean"][by_well["edge"]].to_numpy()
        inner = by_well["mean"][~by_well["edge"]].to_numpy()
        if min(len(outer), len(inner)) >= _FEWEST_WELLS and np.median(inner) > 0:
            p = float(mannwhitneyu(outer, inner).pvalue)
            effect = float(np.median(outer) / np.median(inner)) - 1
            yield str(of_plate["Metadata_Plate"].iloc[0]), rows, effect, p
