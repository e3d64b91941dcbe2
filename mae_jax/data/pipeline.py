"""Batches of crops for training and validation, through grain.

The order of the sites, the place of each crop and its flips depend on the seed and the step alone,
not on how many hosts or worker processes share the work: the global batch of step t consists of
elements t·batch … (t+1)·batch − 1 of one endless sequence (`mae_jax.data.orders`), host r takes its
r-th part, and every element's random numbers come from its position in the sequence. So a run
resumes from its step number on any other number of hosts. What makes it true is the order of
grain's calls: the random map comes before batching, batching before the hosts' slice, and only
then iteration.
"""

import dataclasses
import functools
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mae_jax.config import nearest
from mae_jax.data.batches import CropBatches, CropSet
from mae_jax.data.crashes import keep_notes
from mae_jax.data.crops import CropReader, FillBatch, PlanCrops, SiteCache
from mae_jax.data.index import Index
from mae_jax.data.orders import ByPerturbation, ByPlate, Mixed, Order, Shuffled
from mae_jax.errors import InputError

log = logging.getLogger(__name__)
MEBIBYTE = 1 << 20


SAMPLING = ("sites", "perturbation", "plate")


def crop_batches(
    index: Index,
    *,
    crop: int,
    batch: int,
    seed: int,
    channels: Sequence[str] | None = None,
    split: str | None = "train",
    sampling: str = "sites",
    weights: Mapping[str, float | int] | None = None,
    start_step: int = 0,
    world: int = 1,
    rank: int = 0,
    workers: int = 0,
    threads: int = 4,
    crops_per_site: int = 1,
    cache_bytes: int = 1024 * MEBIBYTE,
    prefetch_bytes: int = 256 * MEBIBYTE,
    max_broken: float = 0.01,
) -> "CropBatches":
    """Endless batches of random crops, from step `start_step` on.

    Crops are uniform over the field and flipped at random along both axes.

    Args:
      index: the screen's index.
      crop: side of a crop in pixels.
      batch: crops in a global batch, a multiple of `world · crops_per_site`.
      seed: of the order, the crops and the flips.
      channels: names and order of the channels; None for those of the index, all of which every
        site must then have.
      split: the rows to take by `Metadata_Split`; None for all.
      sampling: 'sites' visits every site once an epoch, in a new random order each time;
        'perturbation' draws a perturbation by weight and then one of its sites (WSL); 'plate'
        fills each global batch from one plate (AdaBN).
      weights: of the perturbations, where they are sampled; None for equal ones.
      start_step: steps already done.
      world, rank: number of hosts, and this one's number.
      workers: worker processes; 0 reads in threads of this process.
      threads: sites read at once in each process.
      crops_per_site: crops cut from a site each time it is read; more save reading, and make a
        batch less varied.
      cache_bytes: decoded sites kept in memory on this host, shared out among the workers.
      prefetch_bytes: finished batches kept ready on this host. Beside both, a process holds the
        batch that it fills and, for each thread, the site that is being decoded.
      max_broken: share of unreadable sites at which the run stops.

    Returns: an iterator of {"pixels": (batch / world, channels, crop, crop) in the files' type,
      "row": (batch / world,) row numbers in `index.table`, "set": 0}; see `CropBatches`.

    Raises:
      InputError: sizes that do not divide, no rows, or a channel that sites lack. While iterating:
        more broken sites than `max_broken`, or images of unlike types.
    """
    _check_shares(batch, world, rank, crops_per_site)
    rows = rows_of(index, split)
    names = channels_of(index, rows, channels)
    order: Order = _order(index, rows, sampling, batch // crops_per_site, seed, weights)
    reader = CropReader(index, names, crop, SiteCache(cache_bytes // max(workers, 1)))
    fill = FillBatch([reader], [rows], threads)
    notes = Path(tempfile.mkdtemp(prefix="mae-jax-notes-"))
    ready = _iterate(
        order,
        fill,
        local=batch // world // crops_per_site,
        seed=seed,
        first=start_step * world + rank,
        world=world,
        workers=workers,
        crops_per_site=crops_per_site,
        ahead=_ahead(prefetch_bytes, batch // world, len(names), crop, workers),
        notes=notes,
    )
    sets = (CropSet("", index, names),)
    return CropBatches(ready, sets, len(rows), start_step, max_broken, notes, fill)


def mixed_batches(
    sets: Sequence[CropSet],
    *,
    crop: int,
    batch: int,
    seed: int,
    split: str | None = "train",
    start_step: int = 0,
    world: int = 1,
    rank: int = 0,
    workers: int = 0,
    threads: int = 4,
    crops_per_site: int = 1,
    cache_bytes: int = 1024 * MEBIBYTE,
    prefetch_bytes: int = 256 * MEBIBYTE,
    max_broken: float = 0.01,
) -> "CropBatches":
    """Endless batches of several screens with unlike channels, each global batch from one of them.

    All hosts draw from the same set at the same step, so that one compiled program runs everywhere;
    there are as many programs as there are numbers of channels. `sets_by_channels` makes such sets
    out of one index whose plates differ.

    Args:
      sets: the screens, their channels in the order in which batches hold them, and their shares.
      Others: as for `crop_batches`.

    Returns: an iterator of {"pixels": (batch / world, channels of the set, crop, crop), "row": row
      numbers in the set's index, "set": number of the set}; `CropBatches.sets` has their names and
      channels.

    Raises: as `crop_batches`; also where two sets have one name.
    """
    _check_shares(batch, world, rank, crops_per_site)
    if len({s.name for s in sets}) != len(sets) or not sets:
        raise InputError("sets that are mixed need names of their own, and there must be one.")
    rows = [rows_of(s.index, split) for s in sets]
    sets = [
        dataclasses.replace(s, channels=channels_of(s.index, r, s.channels))
        for s, r in zip(sets, rows, strict=True)
    ]
    orders = [Shuffled(r, seed + number) for number, r in enumerate(rows)]
    shares = [len(r) if s.share is None else s.share for s, r in zip(sets, rows, strict=True)]
    cache = cache_bytes // max(workers, 1) // len(sets)
    readers = [CropReader(s.index, s.channels, crop, SiteCache(cache)) for s in sets]
    most = max(len(s.channels) for s in sets)
    fill = FillBatch(readers, rows, threads)
    notes = Path(tempfile.mkdtemp(prefix="mae-jax-notes-"))
    ready = _iterate(
        Mixed(orders, shares, batch // crops_per_site, seed),
        fill,
        local=batch // world // crops_per_site,
        seed=seed,
        first=start_step * world + rank,
        world=world,
        workers=workers,
        crops_per_site=crops_per_site,
        ahead=_ahead(prefetch_bytes, batch // world, most, crop, workers),
        notes=notes,
    )
    return CropBatches(ready, tuple(sets), sum(map(len, rows)), start_step, max_broken, notes, fill)


def sets_by_channels(index: Index, channels: Sequence[str] | None = None) -> list[CropSet]:
    """One set for each combination of channels that the sites of an index have.

    Args:
      index: the index of a screen, or of several.
      channels: the channels to use; None for all. Their order holds in every set.

    Returns: the sets, named by their channels ('DNA+ER+Mito'), the largest first.

    Raises:
      InputError: no site has any of the channels.
    """
    wanted = list(channels) if channels else list(index.channels)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, (names, _) in enumerate(index.sites):
        have = tuple(name for name in wanted if name in names)
        if have:
            groups.setdefault(have, []).append(row)
    if not groups:
        raise InputError(f"no site of the index has any of the channels {', '.join(wanted)}.")
    found = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [
        CropSet("+".join(names), Index(index.table.iloc[rows], index.root), names)
        for names, rows in found
    ]


def _order(
    index: Index,
    rows: Int[np.ndarray, " rows"],
    sampling: str,
    count: int,
    seed: int,
    weights: Mapping[str, float | int] | None,
) -> Order:
    table = index.table.iloc[rows]
    if sampling == "sites":
        return Shuffled(rows, seed)
    if sampling == "perturbation":
        return ByPerturbation(rows, table["Metadata_Perturbation"].tolist(), seed, weights)
    if sampling == "plate":
        columns = ["Metadata_Source", "Metadata_Experiment", "Metadata_Plate"]
        return ByPlate(rows, table[columns].agg("\n".join, axis=1).tolist(), count, seed)
    raise InputError(f"there is no sampling '{sampling}': {nearest(sampling, SAMPLING)}")


def _ahead(prefetch_bytes: int, crops: int, channels: int, crop: int, workers: int) -> int:
    """How many batches may stand ready, reckoned with two bytes a pixel."""
    size = crops * channels * crop * crop * 2
    return max(1, min(64, prefetch_bytes // size // max(workers, 1)))


def _iterate(
    order: Order | Mixed,
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


def validation_crops(
    index: Index,
    *,
    crop: int,
    batch: int,
    channels: Sequence[str] | None = None,
    split: str | None = "validation",
    limit: int | None = None,
    seed: int = 0,
    world: int = 1,
    rank: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """The centre crops of the validation sites, in batches that all hosts have equally many of.

    Args:
      index, crop, batch, channels, world, rank: as for `crop_batches`.
      split: the rows to take by `Metadata_Split`; None for all.
      limit: take this many sites only, drawn once by `seed`; None for all, in order.

    Yields: {"pixels": (batch / world, channels, crop, crop), "row": (batch / world,), "mask":
      (batch / world,) bool}; where `mask` is False a crop only fills the last batch up. A site that
      cannot be read is logged and masked. Nothing at all where the split has no rows.

    Raises:
      InputError: sizes that do not divide, a channel that sites lack, or no site can be read.
    """
    _check_shares(batch, world, rank, 1)
    try:
        rows = rows_of(index, split)
    except InputError:
        return
    names = channels_of(index, rows, channels)
    if limit is not None and limit < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    reader = CropReader(index, names, crop)
    local = batch // world
    blank: np.ndarray | None = None
    for start in range(0, len(rows), batch):
        mine = rows[start + rank * local : min(start + (rank + 1) * local, start + batch)]
        mask = np.zeros(local, bool)
        crops: list[np.ndarray | None] = [None] * local
        for place, row in enumerate(mine):
            try:
                crops[place] = blank = reader.centre(int(row))
                mask[place] = True
            except InputError as problem:
                log.warning("left out of validation: %s", problem)
        if blank is None:
            blank = _first_readable(reader, rows)
        filler = np.zeros_like(blank)
        pixels = [filler if c is None else c for c in crops]
        padded = np.concatenate([mine, np.full(local - len(mine), -1)]).astype(np.int64)
        kinds = {c.dtype for c in pixels}
        if len(kinds) > 1:
            raise InputError(f"validation mixes images of types {sorted(map(str, kinds))}.")
        yield {"pixels": np.stack(pixels), "row": padded, "mask": mask}


def _first_readable(reader: CropReader, rows: np.ndarray) -> np.ndarray:
    problem: InputError | None = None
    for row in rows:
        try:
            return reader.centre(int(row))
        except InputError as error:
            problem = error
    raise InputError(f"no validation site can be read, the last because: {problem}")


def rows_of(index: Index, split: str | None) -> Int[np.ndarray, " rows"]:
    """Row numbers of the split, in the order of the index.

    Raises:
      InputError: there are none.
    """
    if split is None:
        return np.arange(len(index))
    rows = np.flatnonzero(index.table["Metadata_Split"].to_numpy() == split)
    if not len(rows):
        raise InputError(f"the index has no site in the split '{split}'; make it anew with one.")
    return rows


def channels_of(
    index: Index, rows: Sequence[int] | Int[np.ndarray, " rows"], channels: Sequence[str] | None
) -> tuple[str, ...]:
    """The channels asked for, or all of the index, after a check that every row has them.

    Raises:
      InputError: a row lacks one; the message says what to ask for instead.
    """
    names = tuple(channels) if channels else index.channels
    sets: dict[tuple[str, ...], int] = {}
    for row in rows:
        sets.setdefault(index.sites[int(row)][0], int(row))
    for have, row in sets.items():
        lacking = [name for name in names if name not in have]
        if lacking:
            shared = [c for c in index.channels if all(c in other for other in sets)]
            raise InputError(
                f"{index.describe(row)} lacks the channel '{lacking[0]}'; "
                f"all sites have {', '.join(shared) or 'no channel in common'}: "
                "name the channels to use."
            )
    return names


def _check_shares(batch: int, world: int, rank: int, crops_per_site: int) -> None:
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
