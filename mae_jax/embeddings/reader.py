"""Read an embeddings folder, and check that it is complete, undamaged and of one job."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float

from mae_jax.embeddings.manifest import NAME, OLD_NAME, Manifest, read_manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import METADATA, WELL_COLUMNS, ShardFiles, ShardRun
from mae_jax.errors import InputError

_READ_AHEAD = 4  # shards that are read at once


def is_embeddings_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a local folder is one that `mae-jax embed` wrote, with or without its manifest."""
    folder = Path(path)
    return any((folder / name).exists() for name in (NAME, OLD_NAME, "_shards", "shards", "parts"))


class EmbeddingsReader:
    """An embeddings folder or URL, read shard by shard; every shard is verified on reading.

    Attributes:
      manifest: the description of the job.
      shards: the numbers of the shards that are read.
    """

    def __init__(self, path: str | os.PathLike[str], *, allow_incomplete: bool = False) -> None:
        """Open a folder.

        Args:
          path: the embeddings folder, local or a URL.
          allow_incomplete: read the shards that are done so far, to look at a running job.

        Raises:
          InputError: the folder is not an embeddings folder, lacks a shard, or holds a surplus one.
        """
        self._store = OutputStore(path)
        self.manifest: Manifest = read_manifest(self._store)
        self._files = ShardFiles(self._store, self.manifest)
        surplus = self._files.surplus()
        if surplus:
            raise InputError(
                f"{self._store.full_path(surplus[0])} is not one of the {self.manifest.num_shards} "
                "shards of this job; remove it, or run `mae-jax embed` again, which moves it away."
            )
        missing = self._files.missing()
        if missing and not allow_incomplete:
            raise InputError(
                f"{path} lacks {len(missing)} of its {self.manifest.num_shards} shards, the first "
                f"{self._files.name(missing[0])}; run `mae-jax embed` again to complete it, or "
                "read what is done with --allow-incomplete (allow_incomplete=True)."
            )
        self.shards: list[int] = sorted(self._files.completed())
        if not self.shards:
            raise InputError(f"{path} has no finished shard yet; run `mae-jax embed` again.")
        self._names: list[str] | None = None

    def tables(self) -> Iterator[pa.Table]:
        """The shards with at least one well as Arrow tables: `Metadata_*` strings, then float32.

        Raises:
          InputError: a shard is damaged, of another job, or has other columns than the first.
        """
        for shard, table in self._read_ahead():
            if not table.num_rows:
                continue
            if self._names is None:
                self._names = table.column_names
            if table.column_names != self._names:
                raise InputError(
                    f"{self._store.full_path(self._files.name(shard))} has other columns than the "
                    "shards before it; embed into another folder."
                )
            yield table

    def _read_ahead(self) -> Iterator[tuple[int, pa.Table]]:
        """All shards in order, the next few being read in threads."""
        with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="shards") as pool:
            reading: deque[tuple[int, Future[tuple[pa.Table, ShardRun]]]] = deque()
            try:
                for shard in self.shards:
                    reading.append((shard, pool.submit(self._files.read, shard)))
                    if len(reading) > _READ_AHEAD:
                        number, table = reading.popleft()
                        yield number, table.result()[0]
                while reading:
                    number, table = reading.popleft()
                    yield number, table.result()[0]
            finally:
                for _, table in reading:
                    table.cancel()

    def blocks(self) -> Iterator[tuple[pd.DataFrame, Float[np.ndarray, "wells features"]]]:
        """Metadata and features shard by shard, in the order of the index; raises as `tables`."""
        for table in self.tables():
            yield _metadata(table), _features(table)

    @property
    def column_names(self) -> list[str]:
        """The names of all columns, metadata first."""
        if self._names is None:
            first = next(self.tables(), None)
            if first is None:  # no well could be embedded
                self._names = self._files.read(self.shards[0])[0].column_names
        assert self._names is not None
        return self._names

    @property
    def feature_names(self) -> list[str]:
        """The names of the features."""
        return [name for name in self.column_names if not name.startswith(METADATA)]

    def read(self) -> tuple[pd.DataFrame, Float[np.ndarray, "wells features"], list[str]]:
        """All wells, in the order of the index.

        Returns:
          The `Metadata_*` columns as strings, the features, and their names.

        Raises:
          InputError: as `tables`, or the folder has a well twice.
        """
        tables = list(self.tables()) or [self._files.read(self.shards[0])[0]]
        whole = pa.concat_tables(tables)
        metadata = _metadata(whole)
        keys = [name for name in WELL_COLUMNS if name in metadata]
        repeated = metadata.duplicated(keys) if keys else pd.Series(False, index=metadata.index)
        if repeated.any():
            well = " ".join(metadata.loc[repeated, keys].iloc[0])
            raise InputError(f"{self._store} has the well {well} twice; embed it anew.")
        return metadata, _features(whole), self.feature_names


def _metadata(table: pa.Table) -> pd.DataFrame:
    names = [name for name in table.column_names if name.startswith(METADATA)]
    columns = {name: table[name].to_pylist() for name in names}
    return pd.DataFrame(columns, index=range(table.num_rows), dtype="object")


def _features(table: pa.Table) -> Float[np.ndarray, "wells features"]:
    names = [name for name in table.column_names if not name.startswith(METADATA)]
    features = np.empty((table.num_rows, len(names)), np.float32)
    for number, name in enumerate(names):
        features[:, number] = table[name].to_numpy()
    return features


def read_embeddings(
    path: str | os.PathLike[str], *, allow_incomplete: bool = False
) -> tuple[pd.DataFrame, Float[np.ndarray, "wells features"], list[str]]:
    """Read all wells of an embeddings folder; see `EmbeddingsReader` and its `read`.

    Returns:
      The `Metadata_*` columns as strings, the features in float32, and their names.

    Raises:
      InputError: the folder is not complete, or not undamaged and of one job throughout.
    """
    return EmbeddingsReader(path, allow_incomplete=allow_incomplete).read()
