"""Recipes: the whole way from a site's raw pixels to a well's embedding, as one encoder was used.

Published embeddings differ less by their weights than by what was done before and after them:
which channels in which order, clipping, tiles, pooling, mean or median. A recipe says all of it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from mae_jax.errors import InputError
from mae_jax.weights.preprocessing import Preprocessing


@dataclass(frozen=True)
class Recipe:
    """How a screen is embedded with one encoder.

    Attributes:
      name: of the recipe, such as "own" or "jump-lite".
      preprocessing: channels, crop, and what is done with each crop.
      pooling: of the crop's tokens.
      clip: percentiles of each site and channel that become 0 and 1, with clipping; None for none.
      eight_bit: then 0-1 becomes 0-255, rounded down.
      standard_scale: then each site and channel is centered and divided by its deviation.
      pad_channels: black channels are added up to this number.
      tiling: "cover", crops that cover the whole site and overlap where they must; or "grid", crops
        side by side from the top left corner, without what is left at the right and the bottom.
      aggregation: of the crops of a well, per feature.
      note: where it is from, and what about it is not certain.
    """

    name: str
    preprocessing: Preprocessing
    pooling: str = "mean"
    clip: tuple[float, float] | None = None
    eight_bit: bool = False
    standard_scale: bool = False
    pad_channels: int = 0
    tiling: Literal["cover", "grid"] = "cover"
    aggregation: Literal["mean", "median"] = "mean"
    note: str = ""

    def __post_init__(self) -> None:
        if self.eight_bit and self.clip is None:
            raise InputError(
                f"recipe {self.name}: eight_bit needs clip, which brings pixels to 0-1."
            )

    def prepare(
        self, site: Shaped[np.ndarray, "channels height width"]
    ) -> Shaped[np.ndarray, "all_channels height width"]:
        """A site's raw pixels as the crops are cut from: clipped, scaled and padded.

        A channel without contrast becomes 0 by clipping and by scaling.
        """
        if self.clip is not None:
            site = np.stack([_clipped(plane, *self.clip) for plane in site])
        if self.eight_bit:
            site = (site * 255).astype(np.uint8)
        if self.standard_scale:
            site = np.stack([_standard_scaled(plane) for plane in site])
        missing = self.pad_channels - len(site)
        if missing > 0:
            site = np.concatenate([site, np.zeros((missing, *site.shape[1:]), site.dtype)])
        return site

    def record(self) -> dict[str, Any]:
        """The recipe for a manifest: what preprocessing, pooling and crop do not say there."""
        values = dataclasses.asdict(self)
        for name in ("preprocessing", "pooling", "note"):
            del values[name]
        return values | {"clip": None if self.clip is None else list(self.clip)}


def _clipped(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    bottom, top = np.percentile(plane, [low, high])
    wide = plane.astype(np.float32) - np.float32(bottom)
    span = np.float32(top - bottom)
    return np.clip(wide / span, 0, 1) if span > 0 else np.zeros_like(wide)


def _standard_scaled(plane: np.ndarray) -> np.ndarray:
    wide = plane.astype(np.float32)
    mean, std = wide.mean(dtype=np.float64), wide.std(dtype=np.float64)
    if not std > 0:
        return np.zeros_like(wide)
    return ((wide - np.float32(mean)) / np.float32(std)).astype(np.float32)
