"""Crops of labelled sites: random ones to train on, and tiles to predict from."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Num

from mae_jax.data import Index, crop_batches, read_site, tile_offsets

# Row numbers of an index.
Rows = Sequence[int] | Int[np.ndarray, " sites"]
THREADS = 8  # sites decoded at once


def labelled_crops(
    index: Index,
    targets: Float[np.ndarray, "rows outputs"],
    *,
    crop: int,
    batch: int,
    seed: int,
    channels: Sequence[str] = (),
    rows: Rows | None = None,
    balance: Sequence[str] | None = None,
    start_step: int = 0,
) -> Generator[tuple[Num[np.ndarray, "batch channels crop crop"], np.ndarray], None, None]:
    """Endless batches of random crops of labelled sites, randomly flipped, with their targets.

    They come from `mae_jax.data.crop_batches`, so they depend on the seed and the step alone.

    Args:
      targets: a row per row of the index.
      channels: names and order of the channels; () for all of the index.
      rows: numbers of the rows to draw from; None for all.
      balance: the class of each row of the index, to draw all classes equally often.
      start_step: steps already done.
    """
    chosen = np.arange(len(index)) if rows is None else np.asarray(rows)
    table = index.table.iloc[chosen].reset_index(drop=True)
    if balance is not None:
        table["Metadata_Perturbation"] = pd.Series(list(balance)).iloc[chosen].to_numpy()
    batches = crop_batches(
        Index(table, index.root),
        crop=crop,
        batch=batch,
        seed=seed,
        channels=tuple(channels),
        split=None,
        sampling="sites" if balance is None else "label",
        start_step=start_step,
    )
    with closing(batches):
        for each in batches:
            yield each["pixels"], targets[chosen[each["row"]]]


def site_tiles(
    index: Index, rows: Rows, channels: Sequence[str], crop: int, limit: int | None = None
) -> Iterator[Num[np.ndarray, "tiles channels crop crop"]]:
    """The crops that tile each site, in the order of `rows`; sites are read ahead in threads.

    Args:
      limit: the most tiles of a site, evenly spaced among all; None for all.

    Raises:
      InputError: a site cannot be read, or is smaller than a crop.
    """

    def tiles(row: int) -> np.ndarray:
        site = read_site(index, row, channels)
        corners = tile_offsets(site.shape[1], site.shape[2], crop)
        if limit is not None and len(corners) > limit:
            corners = corners[np.linspace(0, len(corners) - 1, limit).round().astype(int)]
        return np.stack([site[:, r : r + crop, c : c + crop] for r, c in corners])

    remaining = iter([int(row) for row in rows])
    with ThreadPoolExecutor(THREADS) as pool:
        pending = [pool.submit(tiles, row) for row in islice(remaining, 2 * THREADS)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(tiles, row) for row in islice(remaining, 1)]
