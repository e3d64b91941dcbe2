"""One HTML page about a screen: what was read, its quality, its wells before and after correction.

It needs no known biology, unlike the page of an evaluation.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.data.image_uri import is_url
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.embeddings.manifest import read_manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.reader import is_embeddings_folder
from mae_jax.errors import InputError, MachineError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.files import write_text
from mae_jax.report.data_urls import inline_svg, jpeg_url
from mae_jax.report.page import versions
from mae_jax.report.plate_grid import WellCell, color_range, colormap, plate_svg, row_and_column
from mae_jax.viz import evaluation_plots
from mae_jax.viz.projection import project_2d, standardize_features
from mae_jax.viz.thumbnails import encode, shrink

MAX_PLATES = 12  # that are drawn
MAX_FINDINGS = 60  # that are listed
MAX_PICTURES = 8
MAX_PROJECTED = 5000  # wells
_FEW = 50  # wells that show no neighborhoods: their principal components are drawn
_SIZE = 220  # pixels per side of a picture
_KEYS = ["Metadata_Source", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well"]


@dataclass(frozen=True)
class ScreenSources:
    """The sources of the page.

    Attributes:
      embeddings: an embeddings folder or profiles.
      corrected: the same after a correction of batch effects.
      index: the screen's index.
      check: the findings that `mae-jax index --check --report` wrote; the sites' quality beside it.
      controls: which wells are negative controls, as COLUMN=VALUE.
    """

    embeddings: str
    corrected: str | None = None
    index: str | None = None
    check: Path | None = None
    controls: str = "Metadata_ControlType=negcon"


def write_screen_page(
    out: str | os.PathLike[str], sources: ScreenSources, title: str = "Embeddings of a screen"
) -> Path:
    """Write one self-contained HTML file, and return its path.

    Raises:
      InputError: the embeddings, the index or the tables of the check are missing or wrong.
    """
    before = Profiles.read(sources.embeddings)
    after = Profiles.read(sources.corrected) if sources.corrected else None
    if not len(before):
        raise InputError(f"{sources.embeddings} has no wells; nothing can be shown.")
    index = Index.read(sources.index) if sources.index else None
    control = _controls(before, sources.controls)
    quality = _quality(sources.check)
    values = {
        "title": title,
        "versions": versions(),
        "ramp": ", ".join(colormap(8)),
        "cards": _cards(before, index, control),
        "encoder": _encoder(sources.embeddings),
        "plates_table": _plates_table(before, control, quality),
        "findings": _findings(sources.check),
        "pictures": _pictures(index, before, control) if index is not None else [],
        "projections": _projections(before, after, control),
        "grids": _grids(after if after is not None else before, control, quality),
        "corrected": after is not None,
        "unit": "wells" if index is None or index.has_plates else "samples",
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mae_jax.report", "."), autoescape=True, trim_blocks=True
    )
    return write_text(out, environment.get_template("screen.html").render(values))


def _controls(profiles: Profiles, controls: str) -> np.ndarray:
    column, _, value = controls.partition("=")
    if column not in profiles.metadata.columns:
        return np.zeros(len(profiles), bool)
    return (profiles.metadata[column].astype(str) == value).to_numpy()


def _quality(check: Path | None) -> pd.DataFrame | None:
    """The quality of the sites, from the table beside the findings."""
    if check is None:
        return None
    path = check.with_name(f"{check.stem}_sites{check.suffix}")
    if not path.is_file():
        return None
    try:
        text = {
            f"Metadata_{name}": str for name in ("Source", "Experiment", "Plate", "Well", "Site")
        }
        return pd.read_csv(path, dtype=text, keep_default_na=True).fillna(dict.fromkeys(text, ""))
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no table of sites ({error}); check the index anew.") from None


def _findings(check: Path | None) -> dict[str, Any]:
    if check is None:
        return {}
    try:
        table = pd.read_csv(check, dtype=str, keep_default_na=False)
        rows = table[["level", "category", "message"]]
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{check} is no list of findings ({error}).") from None
    order = (rows["level"] != "error").argsort(kind="stable")
    rows = rows.iloc[order]
    counts = rows.groupby(["level", "category"], sort=False).size().rename("count").reset_index()
    return {
        "counts": counts.to_dict("records"),
        "rows": rows.head(MAX_FINDINGS).to_dict("records"),
        "left_out": max(0, len(rows) - MAX_FINDINGS),
    }


def _cards(profiles: Profiles, index: Index | None, control: np.ndarray) -> list[dict[str, str]]:
    metadata = profiles.metadata
    plates = metadata.get("Metadata_Plate", pd.Series(dtype=str)).nunique()
    samples = index is not None and not index.has_plates
    cards = [
        {"value": f"{len(profiles):,}", "label": "samples" if samples else "wells embedded"},
        {"value": f"{plates:,}", "label": "plates"},
        {"value": f"{int(control.sum()):,}", "label": "negative controls"},
        {"value": f"{profiles.width:,}", "label": "features"},
    ]
    if index is not None:
        cards.append({"value": f"{len(index):,}", "label": "sites in the index"})
        cards.append({"value": str(len(index.channels)), "label": ", ".join(index.channels)})
    return cards


def _encoder(path: str) -> str:
    """The encoder, as far as the embeddings tell it."""
    if is_url(path) or not is_embeddings_folder(path):
        return ""
    job = read_manifest(OutputStore(path)).job
    encoder = job.get("encoder", "")
    return str(encoder.get("name", "")) if isinstance(encoder, Mapping) else str(encoder)


def _plates_table(
    profiles: Profiles, control: np.ndarray, quality: pd.DataFrame | None
) -> list[dict[str, str]]:
    metadata = profiles.metadata.assign(control=control)
    if "Metadata_Plate" not in metadata:
        return []
    rows = []
    for plate, wells in metadata.groupby("Metadata_Plate", sort=False):
        row = {
            "plate": str(plate),
            "wells": f"{len(wells):,}",
            "controls": f"{int(wells['control'].sum()):,}",
        }
        if quality is not None:
            sites = quality[quality["Metadata_Plate"] == str(plate)]
            blurred = sites.filter(like="QC_OutOfFocus_").astype(bool).any(axis=1)
            row |= {
                "sites": f"{len(sites):,}",
                "empty": f"{int(sites['QC_Empty'].astype(bool).sum()):,}",
                "blurred": f"{int(blurred.sum()):,}",
                "nuclei": f"{sites['QC_NucleusCount'].median():.0f}"
                if sites.get("QC_NucleusCount", pd.Series(dtype=float)).notna().any()
                else "–",
            }
        rows.append(row)
    return rows


def _pictures(index: Index, profiles: Profiles, control: np.ndarray) -> list[dict[str, str]]:
    """One site of some wells in false colors: two controls, and others spread over the screen."""
    wells = index.wells()
    rows_of = dict(zip(wells[_KEYS].itertuples(index=False, name=None), wells["rows"], strict=True))
    shared = [key for key in _KEYS if key in profiles.metadata]
    if shared != _KEYS:
        return []
    others = np.flatnonzero(~control)
    spread = others[np.unique(np.linspace(0, len(others) - 1, MAX_PICTURES - 2).astype(int))] if (
        len(others)
    ) else others  # fmt: skip
    shown = [*np.flatnonzero(control)[:2].tolist(), *spread.tolist()]
    pictures = []
    for number in shown[:MAX_PICTURES]:
        well = profiles.metadata.iloc[number]
        rows = rows_of.get(tuple(str(well[key]) for key in _KEYS))
        if rows is None:
            continue
        text = f"{well['Metadata_Plate']} {well['Metadata_Well']}"
        text += " (control)" if control[number] else ""
        try:
            small = shrink(read_site(index, rows[0]), _SIZE)
            url = jpeg_url(encode(small, index.sites[rows[0]][0], format="JPEG"))
        except (InputError, MachineError) as error:
            url, text = "", f"{text}: {error}"
        pictures.append({"url": url, "text": text})
    return pictures


def _projections(
    before: Profiles, after: Profiles | None, control: np.ndarray
) -> list[tuple[str, str]]:
    """The wells in two dimensions, by plate and by perturbation, before and after correction."""
    figures = []
    for words, profiles in (("embedded", before), ("corrected", after)):
        if profiles is None or len(profiles) < 3:
            continue
        rows = np.unique(np.linspace(0, len(profiles) - 1, MAX_PROJECTED).astype(int))
        coordinates, method = project_2d(
            profiles.features[rows], "pca" if len(rows) < _FEW else "auto"
        )
        metadata = profiles.metadata.iloc[rows]
        is_control = control[rows] if len(control) == len(profiles) else np.zeros(len(rows), bool)
        for title, column in (
            ("plate", "Metadata_Plate"),
            ("perturbation", "Metadata_Perturbation"),
        ):
            if column not in metadata or metadata[column].nunique() < 2:
                continue
            labels = metadata[column].astype(str).to_numpy(dtype=object)
            if title == "perturbation":
                labels = np.where(is_control, "negative control", labels)
            figure = evaluation_plots.projection(
                coordinates, labels.tolist(), background={"negative control": "#e0218a"}
            )
            figures.append((f"{words}, by {title} ({method})", inline_svg(figure)))
    return figures


def _grids(
    profiles: Profiles, control: np.ndarray, quality: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """Heat maps of plates: distance from the controls, and nuclei where they were counted."""
    metadata = profiles.metadata
    if not {"Metadata_Plate", "Metadata_Well"} <= set(metadata.columns):
        return []
    if not any(row_and_column(str(name)) for name in metadata["Metadata_Well"]):
        return []
    if len(control) != len(profiles):
        control = np.zeros(len(profiles), bool)
    of_what = "the plate's negative controls" if control.any() else "the plate's mean"
    kinds = [(f"distance from {of_what}", _distance(profiles, control))]
    if quality is not None and "QC_NucleusCount" in quality:
        keys = ["Metadata_Plate", "Metadata_Well"]
        counts = quality.groupby(keys)["QC_NucleusCount"].mean()
        wells = metadata[keys].astype(str).itertuples(index=False, name=None)
        kinds.append(
            ("nuclei per site", np.array([counts.get(well, np.nan) for well in wells], float))
        )
    grids = []
    plates = metadata["Metadata_Plate"].astype(str).to_numpy()
    names = metadata["Metadata_Well"].astype(str).to_numpy()
    for title, values in kinds:
        limits = color_range(values)
        drawn = []
        every = list(dict.fromkeys(plates))
        for plate in every[:MAX_PLATES]:
            cells = {
                names[i]: WellCell(
                    float(values[i]), f"{names[i]}: {values[i]:.3g}", control=bool(control[i])
                )
                for i in np.flatnonzero(plates == plate)
            }
            drawn.append((plate, plate_svg(cells, limits, f"plate {plate}, {title}")))
        grids.append(
            {
                "title": title,
                "low": f"{limits[0]:.3g}",
                "high": f"{limits[1]:.3g}",
                "plates": drawn,
                "left_out": len(every) - len(drawn),
            }
        )
    return grids


def _distance(profiles: Profiles, control: np.ndarray) -> Float[np.ndarray, " wells"]:
    """Euclidean distance of the standardized features from the mean of the plate's controls.

    Where a plate has none, from that of all controls; where there are none at all, from the mean
    of the plate.
    """
    scaled = standardize_features(profiles.features)
    plates = profiles.metadata["Metadata_Plate"].astype(str).to_numpy()
    distance = np.empty(len(profiles))
    for plate in dict.fromkeys(plates):
        on_plate = plates == plate
        own = on_plate & control
        reference = own if own.any() else control if control.any() else on_plate
        center = scaled[reference].mean(axis=0)
        distance[on_plate] = np.linalg.norm(scaled[on_plate] - center, axis=1)
    return distance
