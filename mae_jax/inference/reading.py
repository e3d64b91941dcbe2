"""Wells read ahead: sites decoded by several threads, in the order of the plan."""

import itertools
import os
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from mae_jax.data.images import read_site
from mae_jax.errors import InputError
from mae_jax.inference.embedding_plan import EmbeddingPlan, Well
from mae_jax.networks.encoder import Encoder
from mae_jax.networks.image_embedding import crop_corners

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class SiteImage:
    """One field of view: its name, its pixels, and the corners of its crops of `crop`² pixels.

    Crops around cells may reach beyond the field: `pixels` then has `margin` more, mirrored, on
    each side, and `labels` says which cell each crop is of.
    """

    name: str
    pixels: Shaped[np.ndarray, "channels height width"]
    offsets: Int[np.ndarray, "crops 2"]
    crop: int
    margin: int = 0
    labels: Int[np.ndarray, " crops"] | None = None


@dataclass(frozen=True, eq=False)
class WellImages:
    """The images of one well: all its sites, channels in the order that the encoder needs."""

    well: Well
    channels: tuple[str, ...]
    sites: list[SiteImage]


@dataclass(frozen=True)
class UnreadableWell:
    """A well that cannot be embedded, and why, in one sentence."""

    well: Well
    reason: str


def read_ahead(
    plan: EmbeddingPlan,
    encoder: Encoder,
    wells: Iterable[Well],
    *,
    threads: int | None = None,
    memory: int,
) -> Iterator[WellImages | UnreadableWell]:
    """Yield the wells in order, while the sites of the next ones are being decoded.

    Channels are chosen by name, every site is read whole, and its crops cover the whole field, or
    all is as the encoder's recipe says. A well with an unreadable site is unreadable: the mean over
    its other sites would not be comparable to the means of other wells.

    Args:
      plan: the plan that the wells belong to.
      encoder: its channels and crop size are read.
      wells: the wells, in the order in which to yield them.
      threads: decoding threads; by default one per CPU, and at least four.
      memory: about how many bytes of pixels may be decoded ahead. One well is always read,
        however large it is.
    """
    threads = threads or max(4, len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    remaining = iter(wells)
    pending: deque[tuple[Well, tuple[str, ...] | UnreadableWell, list[Future[SiteImage]]]] = deque()
    largest = 0  # bytes of the largest well so far
    try:
        while True:
            limit = 2 if not largest else max(1, min(memory // largest, 4 * threads))
            for well in itertools.islice(remaining, max(0, limit - len(pending))):
                try:
                    channels = _channels(plan, encoder, well)
                except InputError as error:
                    pending.append((well, UnreadableWell(well, str(error)), []))
                    continue
                tasks = [pool.submit(_read, plan, encoder, row, channels) for row in well.rows]
                pending.append((well, channels, tasks))
            if not pending:
                return
            well, site_channels, tasks = pending.popleft()
            if isinstance(site_channels, UnreadableWell):
                yield site_channels
                continue
            try:
                images = _checked(well, site_channels, [task.result() for task in tasks])
            except InputError as error:
                yield UnreadableWell(well, str(error))
                continue
            largest = max(largest, sum(site.pixels.nbytes for site in images.sites))
            tasks.clear()  # so that the pixels are freed once the caller drops them
            yield images
            del images
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _channels(plan: EmbeddingPlan, encoder: Encoder, well: Well) -> tuple[str, ...]:
    """The channels to read from each of the well's sites, in the encoder's order."""
    lists = [plan.index.sites[row][0] for row in well.rows]
    if any(set(names) != set(lists[0]) for names in lists):
        raise InputError("its sites have different channels.")
    names = lists[0] if plan.channels is None else plan.channels
    missing = [n for n in (*names, *plan.assigned.values()) if n not in lists[0]]
    if missing:
        raise InputError(f"it lacks the channel {missing[0]}; it has {', '.join(lists[0])}.")
    return encoder.select_channels(names, plan.assigned)


def _read(plan: EmbeddingPlan, encoder: Encoder, row: int, channels: tuple[str, ...]) -> SiteImage:
    recipe = encoder.recipe
    pixels = read_site(plan.index, row, channels)
    if recipe is not None:
        pixels = recipe.prepare(pixels)
    if plan.cells is not None:
        crop = plan.crop or encoder.preprocessing.crop
        if not encoder.params:
            crop = min(crop, *pixels.shape[1:])
        return _around_cells(plan, row, pixels, crop)
    try:
        crop, offsets = crop_corners(encoder, *pixels.shape[1:], crop=plan.crop)
    except InputError as error:
        raise InputError(f"{plan.index.describe(row)}: {error}") from None
    return SiteImage(str(plan.index.table["Metadata_Site"].iat[row]), pixels, offsets, crop)


def _around_cells(
    plan: EmbeddingPlan, row: int, pixels: Shaped[np.ndarray, "channels height width"], crop: int
) -> SiteImage:
    """A crop around each cell, in the middle of which the cell's center is."""
    assert plan.cells is not None
    cells = plan.cells.cells(plan.index, row)
    height, width = pixels.shape[1:]
    outside = ((cells.centers < 0) | (cells.centers >= (height, width))).any(axis=1)
    if outside.any():
        y, x = cells.centers[int(np.argmax(outside))]
        raise InputError(
            f"{plan.index.describe(row)}: a cell at row {y:g}, column {x:g} lies outside of the "
            f"field of {height} × {width} pixels; check the units of the centers."
        )
    margin = min(crop // 2 + 1, height, width)
    if margin <= crop // 2:
        raise InputError(
            f"{plan.index.describe(row)}: the field of {height} × {width} pixels is too small for "
            f"crops of {crop} around its cells; choose a smaller --crop."
        )
    padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    corners = np.rint(cells.centers).astype(np.int64) - crop // 2 + margin
    name = str(plan.index.table["Metadata_Site"].iat[row])
    return SiteImage(name, padded, corners, crop, margin, cells.labels)


def _checked(well: Well, channels: tuple[str, ...], sites: list[SiteImage]) -> WellImages:
    if len({site.pixels.dtype for site in sites}) > 1:
        raise InputError("its sites have different pixel types.")
    if not any(len(site.offsets) for site in sites):
        raise InputError("it has no cells.")
    return WellImages(well, channels, sites)


_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Iterate over `items` in a thread of its own, up to `depth` items ahead.

    An exception of the thread is raised here. Closing the iterator stops the thread.
    """
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> bool:
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
                if not put(item):
                    break
                del item
            put(_END)
        except BaseException as error:
            put(error)
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
