"""Batches of one fixed shape over the borders of wells, and the way back to the wells.

A device is quickest with always the same full batch, and wells have any number of crops. So
crops of consecutive wells share batches, wells with another number of channels or another pixel
type fill batches of their own, and only at the end of a part are batches filled up with zeros.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Shaped

from mae_jax.inference.reading import BrokenWell, WellImages
from mae_jax.inference.shard_plan import Well

Kind = tuple[int, int, np.dtype]  # channels, side of a crop, pixel type: what batches share


@dataclass(eq=False)
class WellWork:
    """A well under way: where its crops stand, and their embeddings as far as they are there.

    Attributes:
      well: which well.
      channels: the names of its channels, in the order given to the encoder.
      sites: the names of its sites.
      places: for every crop the number of its site, and the row and column of its corner.
      vectors: for every crop its embedding, NaN until it comes.
      missing: how many crops have not come yet.
    """

    well: Well
    channels: tuple[str, ...]
    sites: list[str]
    places: np.ndarray
    vectors: np.ndarray | None = None
    tokens: np.ndarray | None = None
    missing: int = 0

    def mean(self) -> Float[np.ndarray, " features"]:
        """The well's embedding: the mean over the crops of all its sites (A.3).

        Summed in double precision and in the order of the crops, so that it does not matter in
        which batches they came.
        """
        assert self.vectors is not None
        assert self.missing == 0
        return self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class Span:
    """Rows `row` to `row + count` of a batch are the crops from `crop` on of a well."""

    work: WellWork
    crop: int
    row: int
    count: int


@dataclass(eq=False)
class Batch:
    """Crops for the device, zeros where there were not enough, and whose they are."""

    pixels: Shaped[np.ndarray, "batch channels crop crop"]
    spans: list[Span] = field(default_factory=list)
    used: int = 0


@dataclass(eq=False)
class PartEnd:
    """All wells of a part have been handed out."""

    part: int
    works: list[WellWork]
    broken: list[BrokenWell]


def batches(items: Iterable[WellImages | BrokenWell], size: int) -> Iterator[Batch | PartEnd]:
    """Cuts wells, which come part by part, into batches of `size` crops.

    Each part ends with its `PartEnd`. What the batches of a part hold depends on the part's
    wells alone.
    """
    open_: dict[Kind, Batch] = {}
    end: PartEnd | None = None
    for item in items:
        if end is not None and end.part != item.well.part:
            yield from open_.values()
            yield end
            open_, end = {}, None
        if end is None:
            end = PartEnd(item.well.part, [], [])
        if isinstance(item, BrokenWell):
            end.broken.append(item)
            continue
        work = _work(item)
        end.works.append(work)
        yield from _fill(item, work, open_, size)
        del item, work
    if end is not None:
        yield from open_.values()
        yield end


def _work(item: WellImages) -> WellWork:
    places = [
        np.concatenate([np.full((len(site.offsets), 1), number), site.offsets], axis=1)
        for number, site in enumerate(item.sites)
    ]
    all_places = np.concatenate(places).astype(np.int32)
    names = [site.name for site in item.sites]
    return WellWork(item.well, item.channels, names, all_places, missing=len(all_places))


def _fill(
    item: WellImages,
    work: WellWork,
    open_: dict[Kind, Batch],
    size: int,
) -> Iterator[Batch]:
    number = 0
    for site in item.sites:
        crop = site.crop
        kind = (len(item.channels), crop, site.pixels.dtype)
        for row, column in site.offsets:
            batch = open_.get(kind)
            if batch is None:  # never used again: the device may still be reading the last one
                pixels = np.zeros((size, kind[0], crop, crop), site.pixels.dtype)
                batch = open_[kind] = Batch(pixels)
            batch.pixels[batch.used] = site.pixels[:, row : row + crop, column : column + crop]
            last = batch.spans[-1] if batch.spans else None
            if last is not None and last.work is work:
                batch.spans[-1] = Span(work, last.crop, last.row, last.count + 1)
            else:
                batch.spans.append(Span(work, number, batch.used, 1))
            batch.used += 1
            number += 1
            if batch.used == size:
                yield open_.pop(kind)
