"""Validation crops: fixed, in equally many batches on all hosts."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from mae_jax.data.crops import CropReader
from mae_jax.data.index import Index
from mae_jax.data.mixture import channels_of, rows_of
from mae_jax.data.pipeline import check_batch_size
from mae_jax.errors import InputError

log = logging.getLogger(__name__)


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
    """The center crops of the validation sites, in equally many batches on all hosts.

    Args:
      index, crop, batch, channels, world, rank: as for `crop_batches`.
      split: the rows to take by `Metadata_Split`; None for all.
      limit: take this many sites only, drawn once by `seed`; None for all, in order.

    Yields: {"pixels": (batch / world, channels, crop, crop), "row": (batch / world,), "mask":
      (batch / world,) bool}; where `mask` is False a crop is padding of the last batch. A site
      that cannot be read is logged and masked. Nothing at all where the split has no rows.

    Raises:
      InputError: sizes that do not divide, a channel that sites lack, or no site can be read.
    """
    check_batch_size(batch, world, rank, 1)
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
        local_rows = rows[start + rank * local : min(start + (rank + 1) * local, start + batch)]
        mask = np.zeros(local, bool)
        crops: list[np.ndarray | None] = [None] * local
        for position, row in enumerate(local_rows):
            try:
                crops[position] = blank = reader.center(int(row))
                mask[position] = True
            except InputError as error:
                log.warning("left out of validation: %s", error)
        if blank is None:
            blank = _first_readable(reader, rows)
        filler = np.zeros_like(blank)
        pixels = [filler if c is None else c for c in crops]
        padded = np.concatenate([local_rows, np.full(local - len(local_rows), -1)]).astype(np.int64)
        dtypes = {c.dtype for c in pixels}
        if len(dtypes) > 1:
            raise InputError(f"validation mixes images of types {sorted(map(str, dtypes))}.")
        yield {"pixels": np.stack(pixels), "row": padded, "mask": mask}


def _first_readable(reader: CropReader, rows: np.ndarray) -> np.ndarray:
    last_error: InputError | None = None
    for row in rows:
        try:
            return reader.center(int(row))
        except InputError as error:
            last_error = error
    raise InputError(f"no validation site can be read, the last because: {last_error}")
