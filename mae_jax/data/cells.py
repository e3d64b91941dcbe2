"""Where the cells of a site are: from a table, from label images, or detected on the DNA stain."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.config import nearest
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.nuclei import detect_nuclei, nucleus_centers
from mae_jax.data.readers.loaddata import read_csv, read_parquet
from mae_jax.data.storage import read_bytes, reason
from mae_jax.data.well_names import normalize_well_name
from mae_jax.errors import InputError, redact_credentials

DETECTED = "nuclei"
_SITE = ("Metadata_Plate", "Metadata_Well", "Metadata_Site")
# Columns of a center's row and column in pixels, as tables of cells name them; the first pair wins.
_CENTERS = (
    ("y", "x"),
    ("Metadata_Cell_Y", "Metadata_Cell_X"),
    ("Nuclei_Location_Center_Y", "Nuclei_Location_Center_X"),
    ("Nuclei_AreaShape_Center_Y", "Nuclei_AreaShape_Center_X"),
    ("Cells_Location_Center_Y", "Cells_Location_Center_X"),
    ("Location_Center_Y", "Location_Center_X"),
    ("AreaShape_Center_Y", "AreaShape_Center_X"),
    ("centroid-0", "centroid-1"),
    ("Y", "X"),
)
_LABELS = ("label", "Metadata_Cell", "ObjectNumber", "Nuclei_Number_Object_Number")


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one site: centers (row, column) in pixels, and their labels."""

    centers: Float[np.ndarray, "cells 2"]
    labels: Int[np.ndarray, " cells"]


@runtime_checkable
class CellSource(Protocol):
    """Says where the cells of each site are."""

    def cells(self, index: Index, row: int) -> Cells:
        """The cells of a row of the index.

        Raises:
          InputError: they cannot be read.
        """

    def record(self) -> dict[str, Any]:
        """What the cells depend on, for the manifest of a job."""


def open_cells(text: str, index: Index, *, diameter: float | None = None) -> CellSource:
    """The source of cells that an option names.

    Args:
      text: "nuclei" to detect them on the DNA stain; a table (.csv, .tsv, .parquet) with plate,
        well, site and the centers in pixels; or the paths of label images, with the fields of the
        index in braces: `masks/{Metadata_Plate}/{Metadata_Well}_{Metadata_Site}.tif` (also .png,
        .npy, .npz and Zarr arrays).
      index: the screen.
      diameter: of a usual nucleus in pixels, for detection; None: from the image.

    Raises:
      InputError: no such table, no column of centers, or an unknown field.
    """
    if text == DETECTED:
        return DetectedNuclei(_dna_channel(index), diameter)
    if "{" in text:
        return LabelImages.checked(text, index)
    return read_cell_table(text)


@dataclass(frozen=True)
class DetectedNuclei:
    """Nuclei detected on one channel (`mae_jax.data.nuclei`)."""

    channel: str
    diameter: float | None = None

    def cells(self, index: Index, row: int) -> Cells:
        """The centers of the nuclei."""
        plane = read_site(index, row, (self.channel,))[0]
        centers = nucleus_centers(detect_nuclei(plane, diameter=self.diameter))
        return Cells(centers, np.arange(1, len(centers) + 1))

    def record(self) -> dict[str, Any]:
        """Channel and diameter."""
        return {"source": "detected nuclei", "channel": self.channel, "diameter": self.diameter}


@dataclass(frozen=True)
class LabelImages:
    """Label images (Cellpose, CellProfiler, JUMP-lite's masks): 0 is background.

    Attributes:
      template: their paths, with columns of the index in braces.
    """

    template: str

    @staticmethod
    def checked(template: str, index: Index) -> "LabelImages":
        """The label images, once the template's fields are known to the index.

        Raises:
          InputError: a field is no column of the index.
        """
        for name in re.findall(r"\{(\w+)\}", template):
            if name not in index.table.columns:
                known = [c for c in index.table.columns if c.startswith("Metadata_")]
                raise InputError(f"the index has no column '{name}': {nearest(name, known)}")
        return LabelImages(template)

    def path(self, index: Index, row: int) -> str:
        """The path of a row's label image."""
        table = index.table
        return re.sub(r"\{(\w+)\}", lambda field: str(table[field[1]].iat[row]), self.template)

    def cells(self, index: Index, row: int) -> Cells:
        """The centers of mass of the labels."""
        from scipy import ndimage

        labels = read_labels(self.path(index, row))
        present = np.unique(labels)
        present = present[present > 0]
        if not len(present):
            return Cells(np.zeros((0, 2)), np.zeros(0, np.int64))
        centers = ndimage.center_of_mass(np.ones(labels.shape, np.uint8), labels, present)
        return Cells(np.asarray(centers, np.float64), present.astype(np.int64))

    def record(self) -> dict[str, Any]:
        """The template."""
        return {"source": "label images", "template": redact_credentials(self.template)}


@dataclass(frozen=True, eq=False)
class CellTable:
    """A table of centers.

    Attributes:
      by_site: the cells by plate, well and site.
      digest: the hash of the table.
    """

    by_site: Mapping[tuple[str, str, str], Cells]
    digest: str

    def cells(self, index: Index, row: int) -> Cells:
        """The cells that the table has for the row's site; none is a site without cells."""
        site = index.table.iloc[row]
        key = tuple(str(site[name]) for name in _SITE)
        return self.by_site.get(key, Cells(np.zeros((0, 2)), np.zeros(0, np.int64)))  # type: ignore[arg-type]

    def record(self) -> dict[str, Any]:
        """The hash of the table."""
        return {"source": "table", "sha256": self.digest}


def read_cell_table(path: str | os.PathLike[str]) -> CellTable:
    """A table with one row per cell: plate, well, site and the center in pixels.

    Raises:
      InputError: it is missing or no table, lacks such columns, or a center is no number.
    """
    name = os.fspath(path)
    shown = redact_credentials(name)
    table = read_parquet(name) if name.endswith(".parquet") else read_csv(name)
    bare = {c.lower(): c for c in table.columns}
    for key in _SITE:
        short = key.removeprefix("Metadata_").lower()
        if key not in table.columns and short in bare:
            table = table.rename(columns={bare[short]: key})
    missing = [key for key in _SITE if key not in table.columns]
    pair = next((p for p in _CENTERS if p[0] in table.columns and p[1] in table.columns), None)
    if missing or pair is None:
        lacks = ", ".join(missing) or "the centers of cells (y and x in pixels)"
        raise InputError(f"{shown} has no column of {lacks}; it has {', '.join(table.columns)}.")
    centers = table[list(pair)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~np.isfinite(centers).all(axis=1))
    if len(bad):
        raise InputError(
            f"row {int(bad[0]) + 1} of {shown} has no number in {pair[0]} or {pair[1]}; delete it."
        )
    label = next((c for c in _LABELS if c in table.columns), None)
    labels = None if label is None else pd.to_numeric(table[label], errors="coerce").to_numpy()
    wells = [_well_name(well) for well in table["Metadata_Well"]]
    keys = table.assign(Metadata_Well=wells)[list(_SITE)]
    by_site = {}
    sites: dict[tuple[str, str, str], list[int]] = {}
    for number, parts in enumerate(keys.to_numpy(str).tolist()):
        sites.setdefault((parts[0], parts[1], parts[2]), []).append(number)
    for name_of_site, rows in sites.items():
        numbers = np.arange(1, len(rows) + 1)
        if labels is not None and np.isfinite(labels[rows]).all():
            numbers = labels[rows].astype(np.int64)
        by_site[name_of_site] = Cells(centers[rows], numbers)
    text = json.dumps([keys.to_numpy().tolist(), centers.tolist()])
    return CellTable(by_site, hashlib.sha256(text.encode()).hexdigest()[:32])


def _well_name(text: str) -> str:
    """The well's name as indexes have it; that of a sample, which is no well, as it is."""
    try:
        return normalize_well_name(text)
    except InputError:
        return text


def read_labels(path: str) -> Int[np.ndarray, "height width"]:
    """A label image: TIFF, PNG, .npy, .npz (its first array), or a Zarr array.

    Raises:
      InputError: it is missing, of no known kind, or has more than one plane.
    """
    import io

    shown = redact_credentials(path)
    lower = path.lower()
    try:
        if lower.endswith((".npy", ".npz")):
            loaded = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
            labels = loaded[loaded.files[0]] if lower.endswith(".npz") else loaded
        elif lower.endswith((".tif", ".tiff")):
            import tifffile

            labels = tifffile.imread(io.BytesIO(read_bytes(path)))
        elif lower.endswith(".png"):
            from PIL import Image

            labels = np.asarray(Image.open(io.BytesIO(read_bytes(path))))
        else:
            import zarr

            labels = np.asarray(zarr.open_array(path, mode="r")[:])
    except InputError:
        raise
    except Exception as error:  # readers raise exceptions of many types on damaged files
        raise InputError(f"{shown} cannot be read as a label image ({reason(error)}).") from None
    labels = np.squeeze(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise InputError(
            f"{shown} has the shape {labels.shape} and the type {labels.dtype}; a label image is "
            "one plane of integers."
        )
    return labels.astype(np.int64)


def _dna_channel(index: Index) -> str:
    from mae_jax.networks.channel_names import match_channels

    found = match_channels(("DNA",), index.channels).found
    if "DNA" not in found:
        raise InputError(
            f"nuclei are detected on the DNA stain, and the index has {', '.join(index.channels)}; "
            "name the stain DNA, or give a table of cells."
        )
    return str(found["DNA"])
