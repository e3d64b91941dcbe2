"""Screens to batches: indexes, image readers, pipelines of crops.

Every training takes its batches from one function:

    batches = crop_batches(index, crop=256, batch=4096, seed=0, channels=("DNA", "ER", "Mito"))
    batches = crop_batches(datasets_by_channels(index), crop=256, batch=4096, seed=0)
    batches = crop_batches(
        [DatasetSpec("rxrx3", rxrx3), DatasetSpec("jump", jump, weight=0.3)],
        crop=256, batch=4096, seed=0,
    )

A batch is a dict: "pixels" (this host's crops, raw), "channels" (their names, a tuple), "dataset"
(the name of the dataset they come from), and for each crop "row" (in that dataset's index), "label"
(an index into `batches.labels`, perturbations unless `label` names another column) and "plate" (an
index into `batches.plates`). All crops of a global batch come from one dataset, the same on all
hosts at the same step, so a network or decoder can be chosen by `batch["dataset"]`.
`sampling="label"` draws labels by weight, or evenly; `sampling="plate"` fills each batch from one
plate. Nothing depends on the number of hosts or workers, and `start_step` resumes anywhere.

`validation_crops(dataset.index, channels=dataset.channels, …)` gives the fixed crops of one dataset
of `batches.datasets`, and `label_codes(datasets)` encodes the labels of all splits as training
does.
"""

from mae_jax.data.batch_iterator import BatchIterator
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.mixture import DatasetSpec, datasets_by_channels, label_codes, plate_codes
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.data.readers.registry import CERTAIN, Reader, ReadOptions, Source, register_reader
from mae_jax.data.validation import validation_crops
from mae_jax.nn.tiling import tile_offsets

__all__ = [
    "CERTAIN",
    "BatchIterator",
    "DatasetSpec",
    "Index",
    "ReadOptions",
    "Reader",
    "Source",
    "crop_batches",
    "datasets_by_channels",
    "label_codes",
    "open_screen",
    "plate_codes",
    "read_site",
    "register_reader",
    "tile_offsets",
    "validation_crops",
]
