"""Thumbnails of the wells of a perturbation, beside a negative control of the same plate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mae_jax.data.images import read_site
from mae_jax.data.index import WELL, Index
from mae_jax.errors import InputError, MachineError
from mae_jax.report.data_urls import jpeg_url
from mae_jax.viz.colors import contrast_limits
from mae_jax.viz.thumbnails import encode, shrink

_PLATE_AND_WELL = ("Metadata_Plate", "Metadata_Well")
SIZE = 144  # pixels per side of a thumbnail


@dataclass(frozen=True)
class Picture:
    """A thumbnail and what stands under it."""

    url: str
    text: str


class WellPictures:
    """Reads one site per well, each at most once.

    All wells of a plate are shown with the contrast of one of its negative controls, so that a
    difference in brightness is one of the wells.
    """

    def __init__(self, index: Index, metadata: pd.DataFrame) -> None:
        """Match the wells of the embeddings' metadata with the index.

        Raises:
          InputError: no well of the embeddings is in the index.
        """
        self.index = index
        self._limits: dict[tuple[str, ...], np.ndarray | None] = {}
        shared = [name for name in WELL if name in metadata.columns]
        if not set(_PLATE_AND_WELL) <= set(shared):
            raise InputError(
                "the pictures of wells need the columns Metadata_Plate and Metadata_Well in the "
                "embeddings; leave --index out, or name those columns so."
            )
        wells = index.wells()
        # Experiments and sources may go by other names in the index: the plate's barcode will do.
        for columns in (shared, list(_PLATE_AND_WELL)):
            keys = list(wells[columns].astype(str).itertuples(index=False, name=None))
            self._columns, self._rows = columns, dict(zip(keys, wells["rows"], strict=True))
            own = metadata[columns].astype(str).itertuples(index=False, name=None)
            if len(self._rows) == len(keys) and not self._rows.keys().isdisjoint(own):
                return
        own_well, index_well = (" ".join(t.iloc[0][shared].astype(str)) for t in (metadata, wells))
        raise InputError(
            f"none of the wells of the embeddings, such as {own_well}, is in the index, which has "
            f"{index_well}; give the index of the same screen."
        )

    def has(self, well: pd.Series) -> bool:
        """Whether the index has images of a row of the metadata."""
        return self._key(well) in self._rows

    def strip(self, wells: pd.DataFrame, controls: pd.DataFrame, most: int = 4) -> list[Picture]:
        """Thumbnails of up to `most` wells that have images, then of one control.

        Args:
          wells: rows of the metadata, of one perturbation.
          controls: those of the negative controls.
          most: wells to show.

        Returns:
          Nothing where the index has no images; unreadable sites are said in the text.
        """
        shown = [row for _, row in wells.iterrows() if self.has(row)][:most]
        if not shown:
            return []
        plates = {str(row["Metadata_Plate"]) for row in shown}
        near = controls[controls["Metadata_Plate"].astype(str).isin(plates)]
        beside = [row for _, row in near.iterrows() if self.has(row)][:1]
        pictures = [self._picture(row, near, "") for row in shown]
        return pictures + [self._picture(row, near, "control ") for row in beside]

    def _picture(self, well: pd.Series, controls: pd.DataFrame, prefix: str) -> Picture:
        text = f"{prefix}{well['Metadata_Plate']} {well['Metadata_Well']}"
        row = self._rows[self._key(well)][0]
        names = self.index.sites[row][0]
        try:
            small = shrink(read_site(self.index, row), SIZE)
            limits = self._plate_limits(str(well["Metadata_Plate"]), controls, names)
            content = encode(small, names, limits=limits, format="JPEG")
        except (InputError, MachineError) as error:
            return Picture("", f"{text}: {error}")
        return Picture(jpeg_url(content), text)

    def _plate_limits(
        self, plate: str, controls: pd.DataFrame, names: Sequence[str]
    ) -> np.ndarray | None:
        """The contrast of the plate's first control that has images of these channels."""
        key = (plate, *names)
        if key not in self._limits:
            own = controls[controls["Metadata_Plate"].astype(str) == plate]
            limits = None
            for _, control in own.iterrows():
                if self.has(control):
                    row = self._rows[self._key(control)][0]
                    if tuple(self.index.sites[row][0]) == tuple(names):
                        limits = contrast_limits(shrink(read_site(self.index, row), SIZE))
                        break
            self._limits[key] = limits
        return self._limits[key]

    def _key(self, well: pd.Series) -> tuple[str, ...]:
        return tuple(str(well[name]) for name in self._columns)
