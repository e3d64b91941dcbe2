"""Wells read ahead: sites decoded by several threads, handed over in the plan's order."""

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from mae_jax.data.images import read_site
from mae_jax.data.tiling import tile_offsets
from mae_jax.errors import InputError
from mae_jax.inference.shard_plan import Plan, Well
from mae_jax.networks.encoder import Encoder

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class SiteImage:
    """One field of view: its name, its pixels, and where its crops of `crop`² stand in it."""

    name: str
    pixels: Shaped[np.ndarray, "channels height width"]
    offsets: Int[np.ndarray, "crops 2"]
    crop: int


@dataclass(frozen=True, eq=False)
class WellImages:
    """One well as it was read: all its sites, with the channels in the order the encoder asks."""

    well: Well
    channels: tuple[str, ...]
    sites: list[SiteImage]


@dataclass(frozen=True)
class BrokenWell:
    """A well that cannot be embedded, and why, in one sentence."""

    well: Well
    reason: str


def read_well(plan: Plan, encoder: Encoder, well: Well) -> WellImages | BrokenWell:
    """Reads one well: channels chosen by name, every site whole, tiles over the whole field.

    A well with one broken site is broken: the mean over the others would be another quantity
    than its neighbours have.
    """
    try:
        channels = _channels(plan, encoder, well)
        return _checked(well, channels, [_read(plan, encoder, row, channels) for row in well.rows])
    except InputError as problem:
        return BrokenWell(well, str(problem))


def read_ahead(
    plan: Plan,
    encoder: Encoder,
    wells: Iterable[Well],
    *,
    threads: int | None = None,
    memory: int = 2 << 30,
) -> Iterator[WellImages | BrokenWell]:
    """The wells in order, with sites of those to come being decoded meanwhile.

    Args:
      plan: the plan that the wells belong to.
      encoder: says which channels it wants and how large a crop is.
      wells: the wells, in the order in which they shall come.
      threads: decoding threads; by default one a processor, and at least four.
      memory: about how many bytes of pixels may be held or under way. One well is always read,
        however large it is.
    """
    threads = threads or max(4, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    coming = iter(wells)
    waiting: deque[tuple[Well, tuple[str, ...] | BrokenWell, list[Future[SiteImage]]]] = deque()
    largest = 0  # bytes of the largest well so far
    try:
        while True:
            limit = 2 if not largest else max(1, min(memory // largest, 4 * threads))
            for well in itertools.islice(coming, max(0, limit - len(waiting))):
                try:
                    channels = _channels(plan, encoder, well)
                except InputError as problem:
                    waiting.append((well, BrokenWell(well, str(problem)), []))
                    continue
                tasks = [pool.submit(_read, plan, encoder, row, channels) for row in well.rows]
                waiting.append((well, channels, tasks))
            if not waiting:
                return
            well, found, tasks = waiting.popleft()
            if isinstance(found, BrokenWell):
                yield found
                continue
            try:
                images = _checked(well, found, [task.result() for task in tasks])
            except InputError as problem:
                yield BrokenWell(well, str(problem))
                continue
            largest = max(largest, sum(site.pixels.nbytes for site in images.sites))
            tasks.clear()  # lets go of the pixels once the caller has
            yield images
            del images
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _channels(plan: Plan, encoder: Encoder, well: Well) -> tuple[str, ...]:
    """The channels to read from each of the well's sites, in the encoder's order."""
    lists = [plan.index.sites[row][0] for row in well.rows]
    if any(set(names) != set(lists[0]) for names in lists):
        raise InputError("its sites have unlike channels.")
    names = lists[0] if plan.channels is None else plan.channels
    missing = [name for name in names if name not in lists[0]]
    if missing:
        raise InputError(f"it lacks the channel {missing[0]}; it has {', '.join(lists[0])}.")
    return encoder.order_channels(names)


def _read(plan: Plan, encoder: Encoder, row: int, channels: tuple[str, ...]) -> SiteImage:
    pixels = read_site(plan.index, row, channels)
    height, width = pixels.shape[1:]
    crop = plan.crop or encoder.preprocessing.crop
    if not encoder.params:  # a baseline: trained at no size, so that a small field will do
        crop = min(crop, height, width)
    try:
        offsets = tile_offsets(height, width, crop)
    except InputError as problem:
        raise InputError(f"{plan.index.describe(row)}: {problem}") from None
    return SiteImage(str(plan.index.table["Metadata_Site"].iat[row]), pixels, offsets, crop)


def _checked(well: Well, channels: tuple[str, ...], sites: list[SiteImage]) -> WellImages:
    if len({site.pixels.dtype for site in sites}) > 1:
        raise InputError("its sites have unlike pixel types.")
    return WellImages(well, channels, sites)


_END = object()


def in_background(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The same items, made by a thread of their own, up to `depth` of them ahead of their use.

    An exception of the thread is raised here. Leaving the iteration stops the thread.
    """
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()

    def hand(item: object) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not hand(item):
                    break
                del item
            hand(_END)
        except BaseException as problem:
            hand(problem)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
            del item
    finally:
        stop.set()
        thread.join()
