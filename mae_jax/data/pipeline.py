"""Batches of crops for training and validation, through grain.

The order of the sites, the place of each crop and its flips depend on the seed and the step alone,
not on how many hosts or worker processes share the work: the global batch of step t consists of
elements t·batch … (t+1)·batch − 1 of one endless shuffled sequence, host r takes its r-th part,
and every element's random numbers come from its position in the sequence. So a run resumes from
its step number on any other number of hosts. What makes it true is the order of grain's calls:
the random map comes before batching, batching before the hosts' slice, and only then iteration.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from mae_jax.data.crops import CropReader, RandomCrop, SiteCache, stack
from mae_jax.data.index import Index
from mae_jax.errors import InputError

log = logging.getLogger(__name__)
MEBIBYTE = 1 << 20


def crop_batches(
    index: Index,
    *,
    crop: int,
    batch: int,
    seed: int,
    channels: Sequence[str] | None = None,
    split: str | None = "train",
    start_step: int = 0,
    world: int = 1,
    rank: int = 0,
    workers: int = 0,
    threads: int = 2,
    crops_per_site: int = 1,
    cache_bytes: int = 1024 * MEBIBYTE,
    prefetch_bytes: int = 256 * MEBIBYTE,
    max_broken: float = 0.01,
) -> "CropBatches":
    """Endless batches of random crops, from step `start_step` on.

    Every site is visited once an epoch, in a new random order each time; crops are uniform over
    the field and flipped at random along both axes.

    Args:
      index: the screen's index.
      crop: side of a crop in pixels.
      batch: crops in a global batch, a multiple of `world · crops_per_site`.
      seed: of the order, the crops and the flips.
      channels: names and order of the channels; None for those of the index, all of which every
        site must then have.
      split: the rows to take by `Metadata_Split`; None for all.
      start_step: steps already done.
      world, rank: number of hosts, and this one's number.
      workers: worker processes; 0 reads in threads of this process.
      threads: reading threads in each process.
      crops_per_site: crops cut from a site each time it is read; more save reading, and make a
        batch less varied.
      cache_bytes: decoded sites kept in memory on this host, shared out among the workers.
      prefetch_bytes: finished batches kept ready on this host. Beside both, a thread holds the
        site that it decodes and the batch that it fills.
      max_broken: share of unreadable sites at which the run stops.

    Returns: an iterator of {"pixels": (batch / world, channels, crop, crop) in the files' type,
      "row": (batch / world,) row numbers in `index.table`}; see `CropBatches`.

    Raises:
      InputError: sizes that do not divide, no rows, or a channel that sites lack. While iterating:
        more broken sites than `max_broken`, or images of unlike types.
    """
    import grain

    _check_shares(batch, world, rank, crops_per_site)
    rows = rows_of(index, split)
    names = channels_of(index, rows, channels)
    reader = CropReader(index, names, crop, SiteCache(cache_bytes // max(workers, 1)))
    local = batch // world // crops_per_site
    elements = (
        grain.MapDataset.source(rows)
        .seed(seed)
        .shuffle()
        .repeat(None)
        .random_map(RandomCrop(reader, rows, crops_per_site))
        .batch(local, drop_remainder=True, batch_fn=stack)[start_step * world + rank :: world]
    )
    size = batch // world * len(names) * crop * crop * 2
    ahead = max(1, prefetch_bytes // size // max(workers, 1))
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, min(ahead, 64))
    )
    ready = elements.to_iter_dataset(options)
    if workers:
        _mark_flags_parsed()
        ready = ready.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1),
            worker_init_fn=_start_worker,
        )
    return CropBatches(ready, index, len(rows), start_step, max_broken)


class CropBatches:
    """Iterator over batches that counts and names what it had to leave out.

    Attributes:
      step: the number of the batch that comes next.
      crops: crops' sites delivered so far by this iterator.
      broken: how many of them stand for a site that could not be read.
      problems: the distinct reasons, each naming its file, with how often each was met.
      data_wait: seconds that the last `next` took: what the device may have waited for.
    """

    def __init__(
        self, batches: Any, index: Index, sites: int, start_step: int, max_broken: float
    ) -> None:
        self._iterator = iter(batches)
        self._index = index
        self._sites = sites
        self._max_broken = max_broken
        self.step = start_step
        self.crops = 0
        self.broken = 0
        self.problems: dict[str, int] = {}
        self.data_wait = 0.0

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        batch = next(self._iterator)
        self.data_wait = time.perf_counter() - started
        self.step += 1
        self._count(len(batch["row"]), batch.pop("problems"))
        return batch

    def close(self) -> None:
        """Stops the reading threads and worker processes; the iterator must not be used after."""
        self._iterator.close()

    def _count(self, crops: int, problems: Sequence[str]) -> None:
        self.crops += crops
        self.broken += len(problems)
        for problem in (line for text in problems for line in text.split("\n")):
            if problem not in self.problems:
                log.warning("left out, another site taken in its place: %s", problem)
            self.problems[problem] = self.problems.get(problem, 0) + 1
        # Judged on a thousand crops or one epoch at least: one bad file early is no share.
        if self.broken > self._max_broken * max(self.crops, min(1000, self._sites)):
            raise InputError(
                f"{self.broken} of {self.crops} sites drawn could not be read, more than the "
                f"share of {self._max_broken:.1%} allowed; the first because: "
                f"{next(iter(self.problems))} "
                "See them all with `mae-jax index --check`."
            )


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


def _start_worker(number: int, count: int) -> None:
    os.environ["JAX_PLATFORMS"] = "cpu"  # a worker must never take the accelerator


def _mark_flags_parsed() -> None:
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
