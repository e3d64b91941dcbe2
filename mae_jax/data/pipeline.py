"""Batches of crops for training, through grain.

The order of the sites, the place of each crop and its flips depend on the seed and the step alone,
not on how many hosts or worker processes share the work: the global batch of step t consists of
elements t·batch … (t+1)·batch − 1 of one endless sequence (`mae_jax.data.samplers`), host r takes
its r-th part, and every element's random numbers come from its position in the sequence. So a run
resumes from its step number on any other number of hosts. What makes it true is the order of
grain's calls: the random map comes before batching, batching before the hosts' slice, and only
then iteration.
"""

import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae_jax.config import nearest
from mae_jax.data.batch_iterator import CropBatches
from mae_jax.data.collate import FillBatch, PlanCrops
from mae_jax.data.crash_log import keep_notes
from mae_jax.data.crops import CropReader, SiteCache
from mae_jax.data.index import Index
from mae_jax.data.mixture import CropSet, Numbering, domains_of, labels_of, resolved
from mae_jax.data.samplers import ByLabel, ByPlate, Mixed, Order, Shuffled
from mae_jax.errors import InputError

MEBIBYTE = 1 << 20
SAMPLING = ("sites", "label", "plate")


def crop_batches(
    sets: Index | Sequence[CropSet],
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
) -> CropBatches:
    """Endless batches of random crops of one screen or of several, from step `start_step` on.

    Crops are uniform over the field and flipped at random along both axes. Where there are several
    screens, each global batch comes from one of them, the same one on all hosts: there are as many
    shapes of batches, and compiled programs, as there are numbers of channels. `sets_by_channels`
    makes sets out of one index whose plates differ.

    Args:
      sets: the index of a screen, or several screens with names, channels and shares.
      crop: side of a crop in pixels.
      batch: crops in a global batch, a multiple of `world · crops_per_site`.
      seed: of the order, the crops and the flips.
      channels: of an index given as such: names and order of its channels; () for all of them,
        which every site must then have.
      split: the rows to take by `Metadata_Split`; None for all.
      sampling: 'sites' visits every site of a set once an epoch, in a new random order each time;
        'label' draws a label by weight and then one of its sites (WSL); 'plate' fills each global
        batch from one plate (AdaBN).
      label: the metadata column that the batches' labels come from.
      weights: of the labels, where they are sampled; one that is not named is left out. None for
        equal ones, which balances labels however many sites they have.
      start_step: steps already done.
      world, rank: number of hosts, and this one's number.
      workers: worker processes; 0 reads in threads of this process.
      threads: sites read at once in each process.
      crops_per_site: crops cut from a site each time it is read; more save reading, and make a
        batch less varied.
      cache_bytes: decoded sites kept in memory on this host, shared out among the workers.
      prefetch_bytes: finished batches kept ready on this host. Beside both, a process holds the
        batch that it fills and, for each thread, the site that is being decoded.
      max_unreadable_fraction: share of unreadable sites at which the run stops.

    Returns: an iterator of batches, dicts of
      "pixels": (batch / world, channels, crop, crop), in the files' type,
      "channels": their names, "set": the name of the set that all of them come from,
      "row": (batch / world,) row numbers in the table of that set's index,
      "label": (batch / world,) numbers in `CropBatches.labels`,
      "domain": (batch / world,) numbers of plates in `CropBatches.domains`.

    Raises:
      InputError: sizes that do not divide, no rows, a channel that sites lack, two sets of one
        name, or no such column. While iterating: more broken sites than
        `max_unreadable_fraction`, or images of unlike types.
    """
    check_shares(batch, world, rank, crops_per_site)
    if isinstance(sets, Index):
        sets = [CropSet("", sets, tuple(channels))]
    elif channels:
        raise InputError("sets name their own channels; give them in each CropSet.")
    sets, rows = resolved(sets, split)
    labels, domains = labels_of(sets, label), domains_of(sets)
    count = batch // crops_per_site
    orders: list[Order]
    if sampling == "sites":
        orders = [Shuffled(r, seed + number) for number, r in enumerate(rows)]
    elif sampling == "plate":
        orders = [
            ByPlate(r, plates[r], count, seed + number)
            for number, (r, plates) in enumerate(zip(rows, domains.numbers, strict=True))
        ]
    elif sampling == "label":
        share = _shares(labels, rows, weights)
        orders = [
            ByLabel(r, of_rows[r], seed + number, share)
            for number, (r, of_rows) in enumerate(zip(rows, labels.numbers, strict=True))
        ]
    else:
        raise InputError(f"there is no sampling '{sampling}': {nearest(sampling, SAMPLING)}")
    shares = [len(r) if s.share is None else s.share for s, r in zip(sets, rows, strict=True)]
    order = Mixed(orders, shares, count, seed)
    for one, turns in zip(sets, order.per_cycle, strict=True):
        if not turns:
            raise InputError(
                f"the set '{one.name}' would give less than one batch in {Mixed.CYCLE}; leave it "
                "out, or give it a larger share."
            )
    cache = cache_bytes // max(workers, 1) // len(sets)
    readers = [CropReader(s.index, s.channels, crop, SiteCache(cache)) for s in sets]
    most = max(len(s.channels) for s in sets)
    fill = FillBatch(readers, rows, threads)
    notes = Path(tempfile.mkdtemp(prefix="mae-jax-notes-"))
    ready = _iterate(
        order,
        fill,
        local=count // world,
        seed=seed,
        first=start_step * world + rank,
        world=world,
        workers=workers,
        crops_per_site=crops_per_site,
        ahead=_ahead(prefetch_bytes, batch // world, most, crop, workers),
        notes=notes,
    )
    return CropBatches(
        ready,
        sets=sets,
        labels=labels,
        domains=domains,
        sites=sum(map(len, rows)),
        start_step=start_step,
        max_unreadable_fraction=max_unreadable_fraction,
        notes=notes,
        fill=fill,
    )


def _shares(
    labels: Numbering, rows: Sequence[np.ndarray], weights: Mapping[str, float | int] | None
) -> np.ndarray:
    """For each label the weight it is drawn with."""
    if weights is None:
        return np.ones(len(labels.names))
    there = {
        labels.names[n]
        for of_set, r in zip(labels.numbers, rows, strict=True)
        for n in np.unique(of_set[r])
    }
    share = np.zeros(len(labels.names))
    for name, weight in weights.items():
        if name not in there or not weight >= 0:
            what = "is not in the index" if name not in there else f"has weight {weight}"
            raise InputError(f"cannot sample by weight: label '{name}' {what}.")
        share[labels.names.index(name)] = weight
    return share


def _ahead(prefetch_bytes: int, crops: int, channels: int, crop: int, workers: int) -> int:
    """How many batches may stand ready, reckoned with two bytes a pixel."""
    size = crops * channels * crop * crop * 2
    return max(1, min(64, prefetch_bytes // size // max(workers, 1)))


def _iterate(
    order: Mixed,
    fill: FillBatch,
    *,
    local: int,
    seed: int,
    first: int,
    world: int,
    workers: int,
    crops_per_site: int,
    ahead: int,
    notes: Path,
) -> Any:
    """grain's dataset of this host's batches; workers keep their notes in the folder `notes`."""
    import grain

    batches = (
        grain.MapDataset.source(order)
        .seed(seed)
        .random_map(PlanCrops(crops_per_site))
        .batch(local, drop_remainder=True, batch_fn=fill)[first::world]
    )
    # One thread fills batches, and inside it the pool reads the sites: several threads would each
    # hold a batch of their own.
    ready = batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead))
    if workers:
        _mark_flags_parsed()
        ready = ready.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=functools.partial(_start_worker, notes),
        )
    return ready


def check_shares(batch: int, world: int, rank: int, crops_per_site: int) -> None:
    if batch < 1 or batch % (world * crops_per_site):
        raise InputError(
            f"a batch of {batch} does not divide among {world} hosts with {crops_per_site} crops "
            "a site; choose a multiple."
        )
    if not 0 <= rank < world:
        raise InputError(f"this host's number {rank} must be from 0 to {world - 1}.")


def _start_worker(notes: Path, number: int, count: int) -> None:
    keep_notes(notes)
    os.environ["JAX_PLATFORMS"] = "cpu"  # a worker must never take the accelerator


def _mark_flags_parsed() -> None:
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
