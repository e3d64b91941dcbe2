"""The data of the page: wells with coordinates, values, neighbors and images."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.data.images import read_site
from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.viz.projection import principal_components, project_2d, standardize_features
from mae_jax.viz.thumbnails import encode, shrink

_COMPONENTS = 3


class Screen:
    """Embeddings of wells in two dimensions, and their images if an index is given."""

    def __init__(
        self,
        profiles: Profiles,
        index: Index | None = None,
        *,
        method: str = "auto",
        limit: int = 20000,
        seed: int = 0,
    ) -> None:
        """Project the wells to two dimensions and match them with the index.

        Args:
          profiles: the embeddings, with `Metadata_Plate` and `Metadata_Well`.
          index: the screen that they were made from, for images.
          method: of the projection; see `project_2d`.
          limit: the maximum number of wells; of more, whole plates are drawn at random.
          seed: of the projection and the draw.

        Raises:
          InputError: fewer than two wells, or no columns of plates and wells.
        """
        for name in ("Metadata_Plate", "Metadata_Well"):
            if name not in profiles.metadata.columns:
                raise InputError(f"the embeddings have no column {name}, which the page needs.")
        if len(profiles) < 2:
            raise InputError(
                f"the embeddings have {len(profiles)} wells; the page needs at least two."
            )
        self.total = len(profiles)
        self.profiles = _some_plates(profiles, limit, seed)
        self.coordinates, self.method = project_2d(self.profiles.features, method, seed)
        scaled = standardize_features(self.profiles.features)
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        self._directions = scaled / np.where(length > 0, length, 1)
        self.index = index
        self._rows = _rows_of(self.profiles.metadata, index)

    def __len__(self) -> int:
        return len(self.profiles)

    def summary(self) -> dict[str, Any]:
        """The static data of the page, ready for JSON: coordinates, metadata, values, plates."""
        metadata = self.profiles.metadata
        columns = {}
        for name in metadata.columns:
            levels, codes = np.unique(metadata[name].to_numpy(str), return_inverse=True)
            columns[name] = {"values": levels.tolist(), "codes": codes.reshape(-1).tolist()}
        values = {name: _rounded(each) for name, each in self.values().items()}
        unit = self.coordinates - self.coordinates.min(axis=0)
        unit = unit / max(float(unit.max()), 1e-9)
        return {
            "wells": len(self),
            "total": self.total,
            "features": self.profiles.width,
            "method": self.method,
            "x": _rounded(unit[:, 0]),
            "y": _rounded(unit[:, 1]),
            "columns": columns,
            "values": values,
            "grid": _grid(metadata["Metadata_Well"].tolist()),
            "images": [row is not None for row in self._rows],
        }

    def values(self) -> dict[str, Float[np.ndarray, " wells"]]:
        """Numbers to color wells by: principal components, and the distance from the controls."""
        first = principal_components(self.profiles.features, _COMPONENTS)
        values = {f"component {i + 1}": first[:, i] for i in range(first.shape[1])}
        metadata = self.profiles.metadata
        if "Metadata_ControlType" in metadata.columns:
            control = (metadata["Metadata_ControlType"] == "negcon").to_numpy()
            if control.any():
                values["distance from negative controls"] = self._distance(control)
        return values

    def _distance(self, control: np.ndarray) -> Float[np.ndarray, " wells"]:
        """From the mean of the plate's own controls, or of all if the plate has none."""
        scaled = standardize_features(self.profiles.features)
        plates = self.profiles.metadata["Metadata_Plate"].to_numpy(str)
        distance = np.empty(len(self), np.float32)
        for plate in np.unique(plates):
            on_plate = plates == plate
            own = on_plate & control
            center = scaled[own if own.any() else control].mean(axis=0)
            distance[on_plate] = np.linalg.norm(scaled[on_plate] - center, axis=1)
        return distance

    def similarities(self, well: int) -> Float[np.ndarray, " wells"]:
        """Cosines of the standardized features between one well and all."""
        return self._directions @ self._directions[well]

    def neighbors(self, well: int, count: int = 8) -> list[tuple[int, float]]:
        """The nearest wells of a well, without itself, and their cosines."""
        cosine = self.similarities(well)
        order = np.argsort(-cosine, kind="stable")
        return [(int(i), float(cosine[i])) for i in order if i != well][:count]

    def sites(self, well: int) -> int:
        """The number of sites of a well that can be shown."""
        rows = self._rows[well]
        return 0 if rows is None else len(rows)

    def image(self, well: int, site: int = 0, size: int = 384, channel: str = "") -> bytes:
        """A PNG of a site, at most `size` pixels wide, in false colors or one channel in gray.

        Raises:
          InputError: there is no image of the well or no such channel, or its file is broken.
        """
        rows = self._rows[well]
        if self.index is None or rows is None:
            raise InputError("this well has no images: give --index.")
        if not 0 <= site < len(rows):
            raise InputError(f"site {site} does not exist: the well has {len(rows)} sites.")
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
    """Row and column of every well, and the size of the plates (96, 384 or 1,536 wells)."""
    rows, columns = [], []
    for name in wells:
        match = re.fullmatch(r"(A?[A-Z])([0-9]{1,4})", str(name))
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
    names = index.sites[row][0]
    if channel and channel not in names:
        raise InputError(f"{index.describe(row)} has no channel '{channel}'.")
    shown = (channel,) if channel else names
    return encode(shrink(read_site(index, row, shown), size), shown, gray=bool(channel))
