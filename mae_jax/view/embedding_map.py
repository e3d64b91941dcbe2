"""One embedding of the wells: a projection computed in the background, values and neighbors."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from mae_jax.evaluation.profiles import Profiles
from mae_jax.viz.projection import principal_components, project_2d, standardize_features

_COMPONENTS = 3


@dataclass(frozen=True)
class Projection:
    """Coordinates of the wells that the embedding has.

    Attributes:
      coordinates: (wells, 2).
      method: its name in words.
      values: numbers to color wells by, (wells,) each.
      final: False for the first components, which are shown until the projection is ready.
    """

    coordinates: Float[np.ndarray, "wells 2"]
    method: str
    values: dict[str, Float[np.ndarray, " wells"]] = field(default_factory=dict)
    final: bool = True


class EmbeddingMap:
    """The embedding of some wells of a screen.

    Attributes:
      name: the embedding's name on the page.
      profiles: its wells.
      present: which of the screen's wells those are, in the screen's order.
    """

    def __init__(
        self,
        name: str,
        profiles: Profiles,
        present: Bool[np.ndarray, " screen_wells"],
        *,
        method: str = "auto",
        seed: int = 0,
    ) -> None:
        self.name, self.profiles, self.present = name, profiles, present
        self._method, self._seed = method, seed
        scaled = standardize_features(profiles.features)
        length = np.linalg.norm(scaled, axis=1, keepdims=True)
        self._scaled = scaled
        self._directions = scaled / np.where(length > 0, length, 1)
        self._numbers = np.flatnonzero(present)
        self._projection: Projection | None = None
        self._error = ""
        self._started = time.monotonic()

    def start(self) -> threading.Thread:
        """Project in the background; `state` tells how far it is."""
        thread = threading.Thread(target=self._project_and_keep_errors, daemon=True)
        self._started = time.monotonic()
        thread.start()
        return thread

    def project(self) -> Projection:
        """The projection: first two principal components at once, then the method asked for."""
        first = principal_components(self.profiles.features, _COMPONENTS)
        values = {f"component {i + 1}": first[:, i] for i in range(first.shape[1])}
        distance = self._distance_from_controls()
        if distance is not None:
            values["distance from negative controls"] = distance
        plane = np.zeros((len(first), 2), np.float32)
        plane[:, : min(2, first.shape[1])] = first[:, :2]
        self._projection = Projection(plane, "first two principal components", values, final=False)
        coordinates, method = project_2d(self.profiles.features, self._method, self._seed)
        self._projection = Projection(coordinates, method, values)
        return self._projection

    def state(self) -> dict[str, Any]:
        """What the page draws, ready for JSON; wells that the embedding lacks are null."""
        projection = self._projection
        state: dict[str, Any] = {
            "ready": projection is not None and projection.final,
            "seconds": round(time.monotonic() - self._started, 1),
            "error": self._error,
        }
        if projection is None:
            return state
        unit = projection.coordinates - projection.coordinates.min(axis=0)
        unit = unit / max(float(unit.max()), 1e-9)
        return state | {
            "method": projection.method,
            "x": self._for_all_wells(unit[:, 0]),
            "y": self._for_all_wells(unit[:, 1]),
            "values": {name: self._for_all_wells(v) for name, v in projection.values.items()},
        }

    def similarities(self, well: int) -> Float[np.ndarray, " wells"]:
        """Cosines of the standardized features between one well and all of this embedding."""
        row = int(np.searchsorted(self._numbers, well))
        return self._directions @ self._directions[row]

    def similarity_to_all(self, well: int) -> list[float | None]:
        """Cosines with every well of the screen; none if this embedding lacks the well."""
        if not self.present[well]:
            return [None] * len(self.present)
        return self._for_all_wells(self.similarities(well))

    def neighbors(self, well: int, count: int = 8) -> list[tuple[int, float]]:
        """The nearest wells of a well, without itself, and their cosines."""
        if not self.present[well]:
            return []
        cosine = self.similarities(well)
        order = np.argsort(-cosine, kind="stable")
        nearest = [(int(self._numbers[i]), float(cosine[i])) for i in order[: count + 1]]
        return [pair for pair in nearest if pair[0] != well][:count]

    def _distance_from_controls(self) -> Float[np.ndarray, " wells"] | None:
        """From the mean of the plate's own negative controls, or of all if the plate has none."""
        metadata = self.profiles.metadata
        if "Metadata_ControlType" not in metadata.columns:
            return None
        control = (metadata["Metadata_ControlType"] == "negcon").to_numpy()
        if not control.any():
            return None
        plates = metadata["Metadata_Plate"].to_numpy(str)
        distance = np.empty(len(self.profiles), np.float32)
        for plate in np.unique(plates):
            on_plate = plates == plate
            own = on_plate & control
            center = self._scaled[own if own.any() else control].mean(axis=0)
            distance[on_plate] = np.linalg.norm(self._scaled[on_plate] - center, axis=1)
        return distance

    def _project_and_keep_errors(self) -> None:
        try:
            self.project()
        except Exception as error:  # shown on the page, which stays usable
            self._error = str(error) or type(error).__name__

    def _for_all_wells(self, values: np.ndarray) -> list[float | None]:
        full = np.full(len(self.present), np.nan)
        full[self._numbers] = values
        return [None if np.isnan(v) else float(f"{v:.5g}") for v in full]
