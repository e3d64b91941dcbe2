"""The data of the page: wells with metadata, one or several embeddings of them, and images."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError
from mae_jax.evaluation.profiles import Profiles
from mae_jax.view.embedding_map import EmbeddingMap
from mae_jax.view.images import channel_settings, site_png

# Identifiers stay names even where they look like numbers.
_IDENTIFIERS = tuple(f"Metadata_{n}" for n in ("Plate", "Well", "Site", "Experiment", "Batch"))
_KEYS = ("Metadata_Plate", "Metadata_Well")


class Screen:
    """Wells with metadata, embeddings of them, and their images if an index is given.

    Attributes:
      metadata: one row per well, the order of every list on the page.
      total: the number of wells before `limit`.
      maps: the embeddings.
    """

    def __init__(
        self,
        embeddings: Profiles | Mapping[str, Profiles],
        index: Index | None = None,
        *,
        method: str = "auto",
        limit: int = 20000,
        seed: int = 0,
    ) -> None:
        """Match the wells of all embeddings, and with the index.

        Args:
          embeddings: one embedding, or several by name. The first one's wells are shown; others
            are matched by plate and well (and source and experiment where all have them).
          index: the screen that they were made from, for images.
          method: of the projection; see `project_2d`.
          limit: the maximum number of wells; of more, whole plates are drawn at random.
          seed: of the projection and the draw.

        Raises:
          InputError: fewer than two wells, no columns of plates and wells, or an embedding that
            shares fewer than two wells with the first.
        """
        named = {"": embeddings} if isinstance(embeddings, Profiles) else dict(embeddings)
        for name, profiles in named.items():
            _check_columns(name, profiles)
        first = next(iter(named.values()))
        if len(first) < 2:
            raise InputError(
                f"the embeddings have {len(first)} wells; the page needs at least two."
            )
        self.total = len(first)
        first = _some_plates(first, limit, seed)
        self.metadata = first.metadata.reset_index(drop=True)
        self.maps = [
            EmbeddingMap(name, *_matched(name, profiles, first), method=method, seed=seed)
            for name, profiles in named.items()
        ]
        self.index = index
        self._rows = _rows_of(self.metadata, index)

    def __len__(self) -> int:
        return len(self.metadata)

    def summary(self) -> dict[str, Any]:
        """The static data of the page, ready for JSON: metadata, plates, names of embeddings."""
        columns: dict[str, Any] = {}
        numbers: dict[str, Any] = {}
        for name in self.metadata.columns:
            values = _numbers(name, self.metadata[name])
            if values is not None:
                numbers[name] = [None if np.isnan(v) else float(f"{v:.6g}") for v in values]
            levels, codes = np.unique(self.metadata[name].to_numpy(str), return_inverse=True)
            columns[name] = {"values": levels.tolist(), "codes": codes.reshape(-1).tolist()}
        return {
            "wells": len(self),
            "total": self.total,
            "embeddings": [
                {"name": each.name, "features": each.profiles.width, "wells": len(each.profiles)}
                for each in self.maps
            ],
            "columns": columns,
            "numbers": numbers,
            "grid": _grid(self.metadata["Metadata_Well"].tolist()),
            "images": [row is not None for row in self._rows],
        }

    def sites(self, well: int) -> int:
        """The number of sites of a well that can be shown."""
        rows = self._rows[well]
        return 0 if rows is None else len(rows)

    def image(
        self,
        well: int,
        site: int = 0,
        *,
        size: int = 384,
        channels: Sequence[str] = (),
        levels: Mapping[str, tuple[float, float]] | None = None,
    ) -> bytes:
        """A PNG of one of a well's sites; see `site_png`.

        Raises:
          InputError: there is no image of the well or no such channel, or its file is broken.
        """
        index, row = self._site(well, site)
        return site_png(index, row, size=size, channels=channels, levels=levels)

    def channels(self, well: int, site: int = 0) -> list[dict[str, Any]]:
        """Name, color and levels of the channels of one of a well's sites.

        Raises:
          InputError: the well has no images, or they are broken.
        """
        index, row = self._site(well, site)
        return channel_settings(index, row)

    def _site(self, well: int, site: int) -> tuple[Index, int]:
        rows = self._rows[well]
        if self.index is None or rows is None:
            raise InputError("this well has no images: give --index.")
        if not 0 <= site < len(rows):
            raise InputError(f"site {site} does not exist: the well has {len(rows)} sites.")
        return self.index, rows[site]


def _check_columns(name: str, profiles: Profiles) -> None:
    for key in _KEYS:
        if key not in profiles.metadata.columns:
            which = f"the embeddings {name}" if name else "the embeddings"
            raise InputError(f"{which} have no column {key}, which the page needs.")


def _matched(name: str, profiles: Profiles, first: Profiles) -> tuple[Profiles, np.ndarray]:
    """The wells of an embedding in the order of the first one's, and which of those it has."""
    if profiles is first:
        return first, np.ones(len(first), bool)
    shared = [
        key for key in WELL if key in profiles.metadata.columns and key in first.metadata.columns
    ]
    rows = {
        key: row
        for row, key in enumerate(profiles.metadata[shared].itertuples(index=False, name=None))
    }
    found = [rows.get(key) for key in first.metadata[shared].itertuples(index=False, name=None)]
    present = np.array([row is not None for row in found])
    if present.sum() < 2:
        raise InputError(
            f"the embeddings {name} share {present.sum()} wells with the first (matched by "
            f"{', '.join(shared)}); give embeddings of the same screen."
        )
    return profiles.take(np.array([row for row in found if row is not None])), present


def _numbers(name: str, column: pd.Series) -> Float[np.ndarray, " wells"] | None:
    """A column of metadata as numbers, empty values as NaN; None if it holds anything else."""
    if name in _IDENTIFIERS:
        return None
    text = column.astype(str).str.strip()
    given = ~text.isin(["", "nan", "None", "<NA>"])
    values = pd.to_numeric(text.where(given), errors="coerce").to_numpy(np.float64)
    usable = np.isfinite(values) == given.to_numpy()
    if not (usable.all() and given.any()) or len(np.unique(values[given])) < 2:
        return None
    return values


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
