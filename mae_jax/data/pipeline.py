"""Batches of crops for training, through grain.

The order of the sites, the position of each crop and its flips depend on the seed and the step
alone, not on the number of hosts or worker processes: the global batch of step t consists of
elements t·batch … (t+1)·batch − 1 of one endless sequence (`mae_jax.data.samplers`), host r takes
its r-th slice, and every element's random numbers come from its position in the sequence. So a run
resumes from its step number on any other number of hosts. This follows from the order of grain's
transformations: random map, batching, slicing by host, and only then iteration.
"""

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mae_jax.config import nearest
from mae_jax.data import crash_log
from mae_jax.data.batch_iterator import BatchIterator
from mae_jax.data.collate import BatchLoader, SampleCrops
from mae_jax.data.crops import CropReader, SiteCache
from mae_jax.data.index import Index
from mae_jax.data.mixture import (
    DatasetSpec,
    LabelEncoding,
    label_codes,
    plate_codes,
    resolve_channels,
)
from mae_jax.data.samplers import (
    LabelWeightedSampler,
    MixtureSampler,
    PlateBatchSampler,
    Sampler,
    ShuffleSampler,
)
from mae_jax.errors import InputError

if TYPE_CHECKING:
    import grain

MEBIBYTE = 1 << 20
SAMPLING = ("sites", "label", "plate")


def crop_batches(
    datasets: Index | Sequence[DatasetSpec],
    *,
    crop: int,
    batch: int,
    seed: int,
    channels: Sequence[str] = (),
    split: str | None = "train",
    sampling: str = "sites",
    label: str = "Metadata_Perturbation",
    weights: Mapping[str, float | int] | None = None,
    start_step: int = 0,
    world: int = 1,
    rank: int = 0,
    workers: int = 0,
    threads: int = 4,
    crops_per_site: int = 1,
    cache_bytes: int = 1024 * MEBIBYTE,
    prefetch_bytes: int = 256 * MEBIBYTE,
    max_unreadable_fraction: float = 0.01,
) -> BatchIterator:
    """Endless batches of random crops of one screen or of several, from step `start_step` on.

    Crops are uniform over the field and flipped at random along both axes. With several screens,
    each global batch comes from one of them, the same one on all hosts: there are as many shapes
    of batches, and compiled programs, as there are numbers of channels. `datasets_by_channels`
    splits an index whose plates have different channels.

    Args:
      datasets: the index of a screen, or several screens with names, channels and weights.
      crop: side of a crop in pixels.
      batch: crops in a global batch, a multiple of `world · crops_per_site`.
      seed: of the order, the crops and the flips.
      channels: names and order of the channels, where `datasets` is an index; () for all of them,
        which every site must then have.
      split: the rows to take by `Metadata_Split`; None for all.
      sampling: 'sites' visits every site of a dataset once per epoch, in a new random order each
        time; 'label' draws a label by weight and then one of its sites (weakly supervised
        learning); 'plate' fills each global batch from one plate (AdaBN).
      label: the metadata column that the batches' labels come from.
      weights: of the labels, for `sampling="label"`; a label without a weight is left out. None for
        equal weights, which balances labels with unequal numbers of sites.
      start_step: number of steps already done.
      world, rank: number of hosts, and the number of this host.
      workers: worker processes; 0 reads in threads of this process.
      threads: sites read concurrently in each process.
      crops_per_site: crops cut from a site each time it is read; more read less, at the cost of
        less varied batches.
      cache_bytes: size of the cache of decoded sites per host, shared by the workers.
      prefetch_bytes: size of the queue of finished batches per host. Besides both, a process holds
        the batch that it fills and, per thread, the site that is being decoded.
      max_unreadable_fraction: fraction of unreadable sites above which the run stops.

    Returns: an iterator of batches, dicts of
      "pixels": (batch / world, channels, crop, crop), in the files' type,
      "channels": their names, "dataset": the name of the dataset that all of them come from,
      "row": (batch / world,) row numbers in the table of that dataset's index,
      "label": (batch / world,) indices into `BatchIterator.labels`,
      "plate": (batch / world,) indices into `BatchIterator.plates`.

    Raises:
      InputError: sizes that do not divide, no rows, a channel that sites lack, two datasets of one
        name, or no such column. While iterating: more unreadable sites than
        `max_unreadable_fraction`, or images of different types.
      MachineError: while iterating, images are out of reach or a worker process was killed.
    """
    check_batch_size(batch, world, rank, crops_per_site)
    if isinstance(datasets, Index):
        datasets = [DatasetSpec("", datasets, tuple(channels))]
    elif channels:
        raise InputError("datasets name their own channels; give them in each DatasetSpec.")
    datasets, rows = resolve_channels(datasets, split)
    labels, plates = label_codes(datasets, label), plate_codes(datasets)
    sites_per_batch = batch // crops_per_site
    samplers: list[Sampler]
    if sampling == "sites":
        samplers = [ShuffleSampler(r, seed + number) for number, r in enumerate(rows)]
    elif sampling == "plate":
        samplers = [
            PlateBatchSampler(r, codes[r], sites_per_batch, seed + number)
            for number, (r, codes) in enumerate(zip(rows, plates.codes, strict=True))
        ]
    elif sampling == "label":
        label_weights = _label_weights(labels, rows, weights)
        samplers = [
            LabelWeightedSampler(r, codes[r], seed + number, label_weights)
            for number, (r, codes) in enumerate(zip(rows, labels.codes, strict=True))
        ]
    else:
        raise InputError(f"there is no sampling '{sampling}': {nearest(sampling, SAMPLING)}")
    dataset_weights = [
        len(r) if dataset.weight is None else dataset.weight
        for dataset, r in zip(datasets, rows, strict=True)
    ]
    mixture = MixtureSampler(samplers, dataset_weights, sites_per_batch, seed)
    for dataset, batches_per_cycle in zip(datasets, mixture.batches_per_cycle, strict=True):
        if not batches_per_cycle:
            raise InputError(
                f"the dataset '{dataset.name}' would give less than one batch in "
                f"{MixtureSampler.CYCLE}; leave it out, or give it a larger weight."
            )
    cache = cache_bytes // max(workers, 1) // len(datasets)
    readers = [CropReader(d.index, d.channels, crop, SiteCache(cache)) for d in datasets]
    most_channels = max(len(d.channels) for d in datasets)
    loader = BatchLoader(readers, rows, threads)
    crash_folder = Path(tempfile.mkdtemp(prefix="mae-jax-crash-log-"))
    batches = _iter_dataset(
        mixture,
        loader,
        local=sites_per_batch // world,
        seed=seed,
        first=start_step * world + rank,
        world=world,
        workers=workers,
        crops_per_site=crops_per_site,
        buffer_size=_buffer_size(prefetch_bytes, batch // world, most_channels, crop, workers),
        crash_folder=crash_folder,
    )
    return BatchIterator(
        batches,
        datasets=datasets,
        labels=labels,
        plates=plates,
        sites=sum(map(len, rows)),
        start_step=start_step,
        max_unreadable_fraction=max_unreadable_fraction,
        crash_log=crash_folder,
        loader=loader,
    )


def _label_weights(
    labels: LabelEncoding, rows: Sequence[np.ndarray], weights: Mapping[str, float | int] | None
) -> np.ndarray:
    """The sampling weight of each label, by its code."""
    if weights is None:
        return np.ones(len(labels.names))
    present = {
        labels.names[code]
        for codes, r in zip(labels.codes, rows, strict=True)
        for code in np.unique(codes[r])
    }
    array = np.zeros(len(labels.names))
    for name, weight in weights.items():
        if name not in present or not weight >= 0:
            reason = f"has weight {weight}" if name in present else "is not in the index"
            raise InputError(f"cannot sample by weight: label '{name}' {reason}.")
        array[labels.names.index(name)] = weight
    return array


def _buffer_size(prefetch_bytes: int, crops: int, channels: int, crop: int, workers: int) -> int:
    """The number of finished batches in each queue, assuming two bytes per pixel."""
    batch_bytes = crops * channels * crop * crop * 2
    return max(1, min(64, prefetch_bytes // batch_bytes // max(workers, 1)))


def _iter_dataset(
    mixture: MixtureSampler,
    loader: BatchLoader,
    *,
    local: int,
    seed: int,
    first: int,
    world: int,
    workers: int,
    crops_per_site: int,
    buffer_size: int,
    crash_folder: Path,
) -> "grain.IterDataset":
    """grain's dataset of this host's batches."""
    import grain

    batches = (
        grain.MapDataset.source(mixture)
        .seed(seed)
        .random_map(SampleCrops(crops_per_site))
        .batch(local, drop_remainder=True, batch_fn=loader)[first::world]
    )
    # One thread fills batches, and inside it the pool reads the sites: several threads would each
    # hold a batch of their own.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=buffer_size)
    dataset = batches.to_iter_dataset(options)
    if workers:
        _mark_flags_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=functools.partial(_init_worker, crash_folder),
        )
    return dataset


def check_batch_size(batch: int, world: int, rank: int, crops_per_site: int) -> None:
    """Checks that a global batch divides among the hosts.

    Raises:
      InputError: it does not, or the host's number is out of range.
    """
    if batch < 1 or batch % (world * crops_per_site):
        raise InputError(
            f"a batch of {batch} does not divide among {world} hosts with {crops_per_site} crops "
            "per site; choose a multiple."
        )
    if not 0 <= rank < world:
        raise InputError(f"this host's number {rank} must be from 0 to {world - 1}.")


def _init_worker(crash_folder: Path, number: int, count: int) -> None:
    crash_log.enable(crash_folder)
    os.environ["JAX_PLATFORMS"] = "cpu"  # a worker must never take the accelerator


def _mark_flags_parsed() -> None:
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
