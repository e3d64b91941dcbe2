"""Profiles too large for memory: read block by block, corrected, written block by block.

1.4 million wells × 1,024 features are 5.7 GB in float32. Fitting needs the reference wells
(the controls, as a rule) alone, and applying needs one block at a time.
"""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.embeddings import EmbeddingsReader, is_embeddings_folder
from mae_jax.embeddings.number_columns import number_type, typed
from mae_jax.errors import InputError
from mae_jax.evaluation import table_formats as formats
from mae_jax.evaluation.columns import ReadOptions, column_roles
from mae_jax.evaluation.corrections import Correction, Source, fit, steps_of
from mae_jax.evaluation.holdout import held_out_controls, held_out_treatments, mark_seen
from mae_jax.evaluation.profiles import ColumnSchema, Profiles, control_mask
from mae_jax.evaluation.sources import Subset
from mae_jax.files import replacing


class StreamedProfiles:
    """Profiles in parquet (an embeddings folder or a file), of which only metadata are held.

    It is a `Source`: `fit` takes it in place of `Profiles`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rows: int = 8192,
        options: ReadOptions | None = None,
        notes: Callable[[str], None] | None = None,
    ) -> None:
        """Open `path`; `rows` are read at a time.

        Args:
          path: an embeddings folder or a parquet file.
          rows: of a block.
          options: which columns are features; no second table can be joined.
          notes: see `Profiles.read`.

        Raises:
          InputError: no such folder or file, not parquet, or an incomplete embeddings folder.
        """
        import pyarrow.parquet as pq

        self.path, self.rows = Path(path), rows
        if not self.path.exists():
            raise InputError(f"{path} does not exist; give an embeddings folder or parquet file.")
        if self.path.is_file() and self.path.suffix not in (".parquet", ".pq"):
            raise InputError(f"{path} is not parquet; only parquet can be read in blocks.")
        options = options or ReadOptions()
        if options.metadata is not None or options.obsm is not None:
            raise InputError(f"{path} is read in blocks, without a second table or obsm.")
        self._reader: EmbeddingsReader | None = None
        if is_embeddings_folder(self.path):
            incomplete = options.allow_incomplete
            self._reader = EmbeddingsReader(self.path, allow_incomplete=incomplete)
            features = set(self._reader.feature_names)
            columns = {
                name: "number" if name in features else "text" for name in self._reader.column_names
            }
            self._roles = column_roles(columns, self.path, options)
            return
        self._files = formats.parquet_files(self.path)
        with formats.readable(self._files[0], "parquet"):
            arrow_schema = pq.read_schema(self._files[0])
            self._roles = formats.parquet_roles(arrow_schema, self.path, options)
        if notes is not None:
            notes(f"{path}: {self._roles.describe()}")

    @property
    def names(self) -> tuple[str, ...]:
        """The feature names."""
        return tuple(self._roles.features)

    @cached_property
    def metadata(self) -> pd.DataFrame:
        """The metadata of all rows."""
        import pyarrow.parquet as pq

        if self._reader is not None:
            names = list(self._roles.metadata)
            tables = [table.select(names).to_pandas() for table in self._reader.tables()]
            empty = pd.DataFrame(columns=names, dtype=str)
            return formats.strings(pd.concat([empty, *tables], ignore_index=True))
        parts = []
        for path in self._files:
            with formats.readable(path, "parquet"):
                parts.append(pq.read_table(path, columns=list(self._roles.metadata)).to_pandas())
        metadata = pd.concat(parts, ignore_index=True).rename(columns=self._roles.metadata)
        return formats.strings(metadata)

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
                    yield Profiles(*formats.arrow_block(rows, self._roles)).finite()
            return
        columns = [*self._roles.metadata, *self._roles.features]
        for path in self._files:
            # A file that is buffered ahead keeps all it has read until it is closed.
            with (
                formats.readable(path, "parquet"),
                pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file,
            ):
                for batch in file.iter_batches(batch_size=self.rows, columns=columns):
                    yield Profiles(*formats.arrow_block(batch, self._roles)).finite()

    def take(self, rows: np.ndarray) -> Profiles:
        """Some rows (a mask or numbers, ascending), in memory."""
        numbers = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        taken, start = [], 0
        for block in self.blocks():
            local = numbers[(numbers >= start) & (numbers < start + len(block))] - start
            start += len(block)
            if len(local):
                taken.append(block.take(local))
        if not taken:
            nothing = np.empty((0, len(self.names)), np.float32)
            return Profiles(self.metadata.iloc[:0], nothing, self.names)
        metadata = pd.concat([k.metadata for k in taken], ignore_index=True)
        return Profiles(metadata, np.concatenate([k.features for k in taken]), self.names)


def fit_stream(
    stream: StreamedProfiles,
    method: str,
    *,
    fit_on: str = "controls",
    batch: str | None = None,
    schema: ColumnSchema | None = None,
    holdout_controls: float = 0.0,
    holdout_treatments: float = 0.0,
    seed: int = 0,
) -> Correction:
    """`corrections.fit` on a stream, without the wells held out (`holdout`).

    The controls are few and are read into memory once. Fitting a step on all wells goes over the
    disk instead, for TVN once for every batch.
    """
    source: Source = stream
    schema = schema or ColumnSchema()
    held_out = held_out_controls(stream, holdout_controls, schema=schema, seed=seed)
    held_out |= held_out_treatments(stream, holdout_treatments, schema=schema, seed=seed)
    if all((step.spec.fit or fit_on) == "controls" for step in steps_of(method, batch)):
        source = stream.take(control_mask(stream.metadata, schema.controls) & ~held_out)
    elif held_out.any():
        source = Subset(stream, ~held_out)
    return fit(source, method, fit_on=fit_on, batch=batch, schema=schema)


def correct_stream(
    stream: StreamedProfiles, correction: Correction, out: str | os.PathLike[str]
) -> Path:
    """Apply a fitted correction block by block and write one parquet file.

    Batches that the correction lacks are fitted first, from their reference wells.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if Path(out).suffix not in formats.PARQUET:
        raise InputError(f"{out} must end in .parquet: only parquet is written block by block.")
    fitted = correction.fit_missing_batches(stream)
    kinds = {str(c): number_type(str(c), stream.metadata[c]) for c in stream.metadata}
    with replacing(out) as tmp_path:
        writer: pq.ParquetWriter | None = None
        try:
            for block in stream.blocks():
                done = mark_seen(fitted.transform(block), fitted)
                texts = {c: done.metadata[c].astype(str).tolist() for c in done.metadata}
                arrays = [typed(texts[c], kinds.get(str(c), pa.string())) for c in texts]
                arrays += [pa.array(np.ascontiguousarray(f)) for f in done.features.T]
                table = pa.Table.from_arrays(arrays, names=[*done.metadata.columns, *done.names])
                writer = writer or pq.ParquetWriter(
                    tmp_path, table.schema, compression="zstd", write_page_checksum=True
                )
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise InputError(f"{stream.path} has no rows to correct.")
    return Path(out)
