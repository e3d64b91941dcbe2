"""Profiles too large for memory: read block by block, corrected, written block by block.

1.4 million wells × 1,024 features are 5.7 GB in float32. Fitting needs the reference wells
(the controls, as a rule) alone, and applying needs one block at a time.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.embeddings import EmbeddingsReader, is_embeddings_folder
from mae_jax.errors import InputError
from mae_jax.evaluation import table_formats as formats
from mae_jax.evaluation.corrections import Correction, Source, fit
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, control_mask
from mae_jax.files import replacing


class StreamedProfiles:
    """Profiles in parquet (an embeddings folder or a file), of which only metadata are held.

    It is a `Source`: `fit` takes it in place of `Profiles`.
    """

    def __init__(self, path: str | os.PathLike[str], rows: int = 8192) -> None:
        """Opens `path`; `rows` are read at a time.

        Raises:
          InputError: no such folder or file, not parquet, or an incomplete embeddings folder.
        """
        import pyarrow.parquet as pq

        self.path, self.rows = Path(path), rows
        if not self.path.exists():
            raise InputError(f"{path} does not exist; give an embeddings folder or parquet file.")
        if self.path.is_file() and self.path.suffix not in (".parquet", ".pq"):
            raise InputError(f"{path} is not parquet; only parquet can be read in blocks.")
        self._reader: EmbeddingsReader | None = None
        if is_embeddings_folder(self.path):
            self._reader = EmbeddingsReader(self.path)
            names = self._reader.column_names
            self._features = self._reader.feature_names
            self._meta = [name for name in names if name not in set(self._features)]
            return
        self._files = formats.parquet_files(self.path)
        schema = pq.read_schema(self._files[0])
        self._meta, self._features = formats.split_columns(schema, self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """The feature names."""
        return tuple(self._features)

    @cached_property
    def metadata(self) -> pd.DataFrame:
        """The metadata of all rows."""
        import pyarrow.parquet as pq

        if self._reader is not None:
            tables = [table.select(self._meta).to_pandas() for table in self._reader.tables()]
            empty = pd.DataFrame(columns=self._meta, dtype=str)
            return formats.strings(pd.concat([empty, *tables], ignore_index=True))
        parts = [pq.read_table(f, columns=self._meta).to_pandas() for f in self._files]
        return formats.strings(pd.concat(parts, ignore_index=True))

    def __len__(self) -> int:
        return len(self.metadata)

    def blocks(self) -> Iterator[Profiles]:
        """The rows in order, `rows` at a time at most.

        Raises:
          InputError: a feature is NaN or infinite.
        """
        import pyarrow.parquet as pq

        if self._reader is not None:
            for table in self._reader.tables():
                for start in range(0, table.num_rows, self.rows):
                    rows = table.slice(start, self.rows)
                    yield Profiles(*formats.arrow_block(rows, self._meta, self._features)).finite()
            return
        columns = [*self._meta, *self._features]
        for path in self._files:
            # A file that is buffered ahead keeps all it has read until it is closed.
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=self.rows, columns=columns):
                    block = Profiles(*formats.arrow_block(batch, self._meta, self._features))
                    yield block.finite()

    def take(self, rows: np.ndarray) -> Profiles:
        """Some rows (a mask or numbers, ascending), in memory."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        kept, at = [], 0
        for block in self.blocks():
            mine = numbers[(numbers >= at) & (numbers < at + len(block))] - at
            at += len(block)
            if len(mine):
                kept.append(block.take(mine))
        if not kept:
            nothing = np.empty((0, len(self.names)), np.float32)
            return Profiles(self.metadata.iloc[:0], nothing, self.names)
        metadata = pd.concat([k.metadata for k in kept], ignore_index=True)
        return Profiles(metadata, np.concatenate([k.features for k in kept]), self.names)


def fit_stream(
    stream: StreamedProfiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
) -> Correction:
    """`corrections.fit` on a stream.

    The controls are few and are read into memory once. Fitting on all wells goes over the disk
    instead, for TVN once for every batch.
    """
    source: Source = stream
    if fit_on == "controls":
        source = stream.take(control_mask(stream.metadata, (schema or ColumnSchema()).controls))
    return fit(source, method, fit_on=fit_on, batch=batch, schema=schema)


def correct_stream(
    stream: StreamedProfiles, correction: Correction, out: str | os.PathLike[str]
) -> Path:
    """Applies a fitted correction block by block and writes one parquet file.

    Batches that the correction lacks are fitted first, from their reference wells.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fitted = correction.fit_missing_batches(stream)
    with replacing(out) as beside:
        writer: pq.ParquetWriter | None = None
        try:
            for block in stream.blocks():
                done = fitted.transform(block)
                arrays = [
                    pa.array(done.metadata[c].astype(object), pa.string()) for c in done.metadata
                ]
                arrays += [pa.array(np.ascontiguousarray(f)) for f in done.features.T]
                table = pa.Table.from_arrays(arrays, names=[*done.metadata.columns, *done.names])
                writer = writer or pq.ParquetWriter(beside, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{stream.path} has no rows to correct.")
    return Path(out)
