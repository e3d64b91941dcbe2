"""From any plate to batches: indexes of screens, readers of images, pipelines of crops."""

from mae_jax.data.batches import CropBatches, CropSet
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.pipeline import (
    crop_batches,
    mixed_batches,
    sets_by_channels,
    validation_crops,
)
from mae_jax.data.sources import read_source
from mae_jax.data.tiling import tile_offsets

__all__ = [
    "CropBatches",
    "CropSet",
    "Index",
    "crop_batches",
    "mixed_batches",
    "read_site",
    "read_source",
    "sets_by_channels",
    "tile_offsets",
    "validation_crops",
]
