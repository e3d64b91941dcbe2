"""From any plate to batches: indexes of screens, readers of images, pipelines of crops.

Training takes its batches from one function, whatever it trains on:

    batches = crop_batches(index, crop=256, batch=4096, seed=0, channels=("DNA", "ER", "Mito"))
    batches = crop_batches(sets_by_channels(index), crop=256, batch=4096, seed=0)
    batches = crop_batches(
        [CropSet("rxrx3", rxrx3), CropSet("jump", jump, share=0.3)], crop=256, batch=4096, seed=0
    )

A batch is a dict: "pixels" (this host's crops, raw), "channels" (their names, a tuple), "set" (the
name of the set they come from), and for each crop "row" (in that set's index), "label" (a number
in `batches.labels`, perturbations unless `label` names another column) and "domain" (its plate, a
number in `batches.domains`). All crops of a global batch come from one set, the same on all hosts
at the same step, so a network or decoder can be chosen by `batch["set"]`. `sampling="label"` draws
labels by weight, or evenly; `sampling="plate"` fills each batch from one plate. Nothing depends on
the number of hosts or workers, and `start_step` goes on anywhere.

`validation_crops(one.index, channels=one.channels, …)` gives the fixed crops of one set of
`batches.sets`, and `labels_of(sets)` numbers the labels of all splits as training does.
"""

from mae_jax.data.batch_iterator import CropBatches
from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.mixture import CropSet, domains_of, labels_of, sets_by_channels
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.readers.open_screen import read_source
from mae_jax.data.tiling import tile_offsets
from mae_jax.data.validation import validation_crops

__all__ = [
    "CropBatches",
    "CropSet",
    "Index",
    "crop_batches",
    "domains_of",
    "labels_of",
    "read_site",
    "read_source",
    "sets_by_channels",
    "tile_offsets",
    "validation_crops",
]
