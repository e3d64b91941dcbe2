"""What the page shows: wells with coordinates, values, neighbors and images."""

import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.data.images import read_site
from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.viz.colors import contrast_limits, false_color, rescale_intensity
from mae_jax.viz.projection import principal_components, project_2d, standardize_features

_COMPONENTS = 3


class Screen:
    """Embeddings of wells, ready to be looked at, and their images where an index is given."""

    def __init__(
        self,
        profiles: Profiles,
        index: Index | None = None,
        *,
        method: str = "auto",
        limit: int = 20000,
        seed: int = 0,
    ) -> None:
        """Lays the wells flat and finds what can be shown of them.

        Args:
          profiles: the embeddings, with `Metadata_Plate` and `Metadata_Well`.
          index: the screen that they were made from, for images.
          method: see `project_2d`.
          limit: at most so many wells; of more, whole plates are drawn at random.
          seed: of the map and the draw.

        Raises:
          InputError: no wells, or no names of plates and wells.
        """
        for name in ("Metadata_Plate", "Metadata_Well"):
            if name not in profiles.metadata.columns:
                raise InputError(f"the embeddings have no column {name}, which the page needs.")
        if len(profiles) < 2:
            raise InputError(f"there must be at least two wells to look at, not {len(profiles)}.")
        self.total = len(profiles)
        self.profiles = _some_plates(profiles, limit, seed)
        self.places, self.method = project_2d(self.profiles.features, method, seed)
        scaled = standardize_features(self.profiles.features)
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        self._directions = scaled / np.where(length > 0, length, 1)
        self.index = index
        self._rows = _rows_of(self.profiles.metadata, index)

    def __len__(self) -> int:
        return len(self.profiles)

    def summary(self) -> dict[str, Any]:
        """All that the page needs at once, as JSON: coordinates, metadata, values, plates."""
        metadata = self.profiles.metadata
        columns = {}
        for name in metadata.columns:
            values, codes = np.unique(metadata[name].to_numpy(str), return_inverse=True)
            columns[name] = {"values": values.tolist(), "codes": codes.reshape(-1).tolist()}
        numbers = {name: _rounded(found) for name, found in self.values().items()}
        places = self.places - self.places.min(axis=0)
        places = places / max(float(places.max()), 1e-9)
        return {
            "wells": len(self),
            "total": self.total,
            "features": self.profiles.width,
            "method": self.method,
            "x": _rounded(places[:, 0]),
            "y": _rounded(places[:, 1]),
            "columns": columns,
            "values": numbers,
            "grid": _grid(metadata["Metadata_Well"].tolist()),
            "images": [row is not None for row in self._rows],
        }

    def values(self) -> dict[str, Float[np.ndarray, " wells"]]:
        """Numbers to color wells by: principal components, and the distance from the controls."""
        first = principal_components(self.profiles.features, _COMPONENTS)
        found = {f"component {i + 1}": first[:, i] for i in range(first.shape[1])}
        metadata = self.profiles.metadata
        if "Metadata_ControlType" in metadata.columns:
            control = (metadata["Metadata_ControlType"] == "negcon").to_numpy()
            if control.any():
                found["distance from negative controls"] = self._distance(control)
        return found

    def _distance(self, control: np.ndarray) -> Float[np.ndarray, " wells"]:
        """From the mean of the plate's own controls, or of all where a plate has none."""
        scaled = standardize_features(self.profiles.features)
        plates = self.profiles.metadata["Metadata_Plate"].to_numpy(str)
        found = np.empty(len(self), np.float32)
        for plate in np.unique(plates):
            there = plates == plate
            own = there & control
            centre = scaled[own if own.any() else control].mean(axis=0)
            found[there] = np.linalg.norm(scaled[there] - centre, axis=1)
        return found

    def similarities(self, well: int) -> Float[np.ndarray, " wells"]:
        """Cosines of the standardised features between one well and all."""
        return self._directions @ self._directions[well]

    def neighbors(self, well: int, count: int = 8) -> list[tuple[int, float]]:
        """The wells most like a well, without itself, and their cosines."""
        cosine = self.similarities(well)
        order = np.argsort(-cosine, kind="stable")
        return [(int(i), float(cosine[i])) for i in order if i != well][:count]

    def sites(self, well: int) -> int:
        """How many sites of a well can be shown."""
        rows = self._rows[well]
        return 0 if rows is None else len(rows)

    def image(self, well: int, site: int = 0, size: int = 384, channel: str = "") -> bytes:
        """A PNG of a site, at most `size` pixels wide, in false colors or one channel in grey.

        Raises:
          InputError: there is no image of the well or no such channel, or its file is broken.
        """
        rows = self._rows[well]
        if self.index is None or rows is None:
            raise InputError("there are no images of this well: give --index.")
        if not 0 <= site < len(rows):
            raise InputError(f"the well has {len(rows)} sites; there is no number {site}.")
        return _png(self.index, rows[site], min(size, 2048), channel)

    def channels(self, well: int) -> tuple[str, ...]:
        """The names of the channels of a well's first site."""
        rows = self._rows[well]
        if self.index is None or rows is None:
            return ()
        return self.index.sites[rows[0]][0]


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _some_plates(profiles: Profiles, limit: int, seed: int) -> Profiles:
    if len(profiles) <= limit:
        return profiles
    plates = profiles.metadata["Metadata_Plate"].to_numpy(str)
    kept: list[str] = []
    wells = 0
    for plate in np.random.default_rng(seed).permutation(np.unique(plates)):
        wells += int((plates == plate).sum())
        if kept and wells > limit:
            break
        kept.append(str(plate))
    return profiles.take(np.isin(plates, kept))


def _rows_of(metadata: pd.DataFrame, index: Index | None) -> list[list[int] | None]:
    """For each well the rows of its sites in the index."""
    if index is None:
        return [None] * len(metadata)
    shared = [name for name in WELL if name in metadata.columns]
    wells = index.wells()
    known = dict(zip(wells[shared].itertuples(index=False, name=None), wells["rows"], strict=True))
    return [known.get(key) for key in metadata[shared].itertuples(index=False, name=None)]


def _grid(wells: Sequence[str]) -> dict[str, Any]:
    """Row and column of every well, and how many the plates have (96, 384 or 1,536 wells)."""
    rows, columns = [], []
    for name in wells:
        match = re.fullmatch(r"(A?[A-Z])(\d+)", str(name))
        if match is None:
            rows.append(0)
            columns.append(0)
            continue
        letters = match[1]
        rows.append(ord(letters[-1]) - ord("A") + 26 * (len(letters) - 1))
        columns.append(int(match[2]) - 1)
    for height, width in ((8, 12), (16, 24), (32, 48)):
        if max(rows) < height and max(columns) < width:
            break
    return {"rows": rows, "columns": columns, "height": height, "width": width}


@lru_cache(maxsize=256)
def _png(index: Index, row: int, size: int, channel: str) -> bytes:
    from PIL import Image

    names = index.sites[row][0]
    if channel and channel not in names:
        raise InputError(f"{index.describe(row)} has no channel '{channel}'.")
    wanted = (channel,) if channel else names
    pixels = read_site(index, row, wanted)
    step = max(1, -(-max(pixels.shape[1:]) // size))
    height, width = (n // step * step for n in pixels.shape[1:])
    # Means over blocks keep what thin structures show; taking every n-th pixel would not.
    blocks = pixels[:, :height, :width].astype(np.float32)
    small = blocks.reshape(len(wanted), height // step, step, width // step, step).mean((2, 4))
    shown = rescale_intensity(small, contrast_limits(small))
    if channel:
        picture = Image.fromarray((shown[0] * 255).astype(np.uint8))
    else:
        picture = Image.fromarray(false_color(shown, np.zeros(shown.shape, bool), names))
    sink = BytesIO()
    picture.save(sink, format="PNG")
    return sink.getvalue()
