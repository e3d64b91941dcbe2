"""Batches of one fixed shape across wells, and the way back to the wells.

A device is fastest with always the same full batch, and wells have any number of crops. So crops
of consecutive wells share batches, wells with another number of channels or another pixel type
fill batches of their own, and only at the end of a shard are batches padded with zeros.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, Shaped

from mae_jax.inference.embedding_plan import Well
from mae_jax.inference.reading import UnreadableWell, WellImages

BatchKey = tuple[int, int, np.dtype]  # channels, crop side and pixel type, equal within a batch


@dataclass(eq=False)
class WellAccumulator:
    """A well in progress: where its crops are, and their embeddings as they arrive.

    Attributes:
      well: which well.
      channels: the names of its channels, in the order given to the encoder.
      sites: the names of its sites.
      coordinates: for every crop the index of its site, and the row and column of its corner.
      embeddings: for every crop its embedding, NaN until it arrives; None before the first.
      tokens: for every crop its tokens, if they are kept.
      num_pending: how many crops have not arrived yet.
      labels: the cell of every crop, if crops are taken around cells.
    """

    well: Well
    channels: tuple[str, ...]
    sites: list[str]
    coordinates: Int[np.ndarray, "crops 3"]
    embeddings: Float[np.ndarray, "crops features"] | None = None
    tokens: Float[np.ndarray, "crops tokens width"] | None = None
    num_pending: int = 0
    labels: Int[np.ndarray, " crops"] | None = None

    def add(
        self,
        crops: slice,
        embeddings: Float[np.ndarray, "some features"],
        tokens: Float[np.ndarray, "some tokens width"] | None,
    ) -> None:
        """Store the embeddings (and tokens) of some crops."""
        if self.embeddings is None:
            shape = (len(self.coordinates), embeddings.shape[1])
            self.embeddings = np.full(shape, np.nan, np.float32)
            if tokens is not None:
                self.tokens = np.empty((len(self.coordinates), *tokens.shape[1:]), np.float32)
        self.embeddings[crops] = embeddings
        if tokens is not None:
            assert self.tokens is not None
            self.tokens[crops] = tokens
        self.num_pending -= crops.stop - crops.start

    def aggregate(self, method: str = "mean") -> Float[np.ndarray, " features"]:
        """The well's embedding: the mean (A.3) or median over the crops of all its sites.

        Means are summed in double precision and in the order of the crops, so that it does not
        matter in which batches they came.
        """
        assert self.embeddings is not None
        assert self.num_pending == 0
        if method == "median":
            return np.median(self.embeddings, axis=0).astype(np.float32)
        return self.embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class BatchSlice:
    """Rows `row` to `row + count` of a batch are the crops of a well from `crop` on."""

    well: WellAccumulator
    crop: int
    row: int
    count: int


@dataclass(eq=False)
class Batch:
    """Crops for the devices, padded with zeros, and the wells they belong to."""

    pixels: Shaped[np.ndarray, "batch channels crop crop"]
    slices: list[BatchSlice] = field(default_factory=list)
    num_crops: int = 0


@dataclass(eq=False)
class ShardEnd:
    """Marks that all crops of a shard have been handed out."""

    shard: int
    wells: list[WellAccumulator]
    unreadable: list[UnreadableWell]


def make_batches(
    wells: Iterable[WellImages | UnreadableWell], batch_size: int
) -> Iterator[Batch | ShardEnd]:
    """Cut wells, which come shard by shard, into batches of `batch_size` crops.

    Each shard ends with its `ShardEnd`. The batches of a shard depend on its wells alone.
    """
    batches: dict[BatchKey, Batch] = {}
    end: ShardEnd | None = None
    for images in wells:
        if end is not None and end.shard != images.well.shard:
            yield from batches.values()
            yield end
            batches, end = {}, None
        if end is None:
            end = ShardEnd(images.well.shard, [], [])
        if isinstance(images, UnreadableWell):
            end.unreadable.append(images)
            continue
        well = _accumulator(images)
        end.wells.append(well)
        yield from _fill(images, well, batches, batch_size)
        del images, well
    if end is not None:
        yield from batches.values()
        yield end


def _accumulator(images: WellImages) -> WellAccumulator:
    coordinates = [
        np.concatenate(
            [np.full((len(site.offsets), 1), number), site.offsets - site.margin], axis=1
        )
        for number, site in enumerate(images.sites)
    ]
    crops = np.concatenate(coordinates).astype(np.int32)
    names = [site.name for site in images.sites]
    labels = [site.labels for site in images.sites if site.labels is not None]
    return WellAccumulator(
        images.well,
        images.channels,
        names,
        crops,
        num_pending=len(crops),
        labels=np.concatenate(labels) if labels else None,
    )


def _fill(
    images: WellImages,
    well: WellAccumulator,
    batches: dict[BatchKey, Batch],
    batch_size: int,
) -> Iterator[Batch]:
    number = 0
    for site in images.sites:
        crop = site.crop
        key = (len(site.pixels), crop, site.pixels.dtype)  # a recipe may have added channels
        for row, column in site.offsets:
            batch = batches.get(key)
            if batch is None:  # a new array: the devices may still be reading the last one
                pixels = np.zeros((batch_size, key[0], crop, crop), site.pixels.dtype)
                batch = batches[key] = Batch(pixels)
            batch.pixels[batch.num_crops] = site.pixels[:, row : row + crop, column : column + crop]
            last = batch.slices[-1] if batch.slices else None
            if last is not None and last.well is well:
                batch.slices[-1] = BatchSlice(well, last.crop, last.row, last.count + 1)
            else:
                batch.slices.append(BatchSlice(well, number, batch.num_crops, 1))
            batch.num_crops += 1
            number += 1
            if batch.num_crops == batch_size:
                yield batches.pop(key)
