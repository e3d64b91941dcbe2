"""The shards of an embeddings folder: one Parquet file per shard, with checksums.

Every page carries a CRC, and the footer a SHA-256 of the shard's number, metadata and features,
so that a flipped bit is noticed whatever it hits. The footer also carries the hash of the job, by
which a shard of another encoder or index is refused.
"""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from jaxtyping import Float

from mae_jax.embeddings.manifest import Manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.errors import InputError

METADATA = "Metadata_"  # prefix of the metadata columns
# The columns that identify a well among all screens.
WELL_COLUMNS = ("Metadata_Source", "Metadata_Experiment", "Metadata_Plate", "Metadata_Well")
_JOB, _RUN, _SHARD, _SHA256 = b"mae_jax.job", b"mae_jax.run", b"mae_jax.shard", b"mae_jax.sha256"
# A shard is read only if it takes at most so many bytes of memory per byte of its file, or so many
# in all: small files that claim to be large are refused.
_MAX_EXPANSION, _SMALL = 200, 64 << 20


class DamagedShardError(InputError):
    """A shard file that is unreadable, altered or of another job.

    Attributes:
      reason: the file and what is wrong with it, without advice.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; run `mae-jax embed` again, which redoes it.")
        self.reason = reason


@dataclass(frozen=True)
class ShardRun:
    """How a shard was made.

    Attributes:
      wells: number of embedded wells.
      skipped: number of wells that could not be embedded.
      crops: number of crops.
      details: versions, per-device batch size, devices and time of writing.
      arrays_sha256: hash of the shard's crops and tokens (`crop_arrays.content_hash`), or "".
    """

    wells: int
    skipped: int
    crops: int
    details: dict[str, Any]
    arrays_sha256: str = ""

    def encode(self) -> str:
        """The record as JSON."""
        counts = {"wells": self.wells, "skipped": self.skipped, "crops": self.crops}
        arrays = {"arrays_sha256": self.arrays_sha256} if self.arrays_sha256 else {}
        return json.dumps({**self.details, **counts, **arrays})


def feature_names(width: int, channels: Sequence[str] = ()) -> list[str]:
    """`Image_MAE_0000`, …: names that pycytominer takes for features of images.

    Args:
      width: the number of features.
      channels: the channels that have an equal share of the features each, in order:
        `Image_MAE_DNA_0000`, …, `Image_MAE_ER_0000`, …; none: the features are of all channels.
    """
    if not channels:
        return [f"Image_MAE_{number:04d}" for number in range(width)]
    words = [re.sub(r"[^0-9A-Za-z]+", "-", name).strip("-") for name in channels]
    if len(set(words)) < len(words) or not all(words):
        words = list(channels)
    each = width // len(channels)
    return [f"Image_MAE_{word}_{number:04d}" for word in words for number in range(each)]


class ShardFiles:
    """The shard files of one embeddings folder, by number."""

    def __init__(self, store: OutputStore, manifest: Manifest) -> None:
        self.store, self.manifest = store, manifest
        word = "part" if manifest.format == 1 else "shard"
        self.folder, self._prefix = manifest.folder_name(f"{word}s"), f"{word}-"
        self.skipped_folder = manifest.folder_name("skipped")
        self.quarantine_folder = manifest.folder_name("quarantine")
        self.arrays_folder = manifest.folder_name("arrays")

    def stem(self, shard: int) -> str:
        """The file name of a shard, without suffix."""
        return f"{self._prefix}{shard:06d}"

    def name(self, shard: int) -> str:
        """The name of a shard's file in the folder."""
        return f"{self.folder}/{self.stem(shard)}.parquet"

    def completed(self) -> set[int]:
        """The numbers of the shards of the job whose file exists."""
        return self._numbers(self.folder, ".parquet")

    def missing(self) -> list[int]:
        """The numbers of the shards of the job that are not done."""
        return sorted(set(range(self.manifest.num_shards)) - self.completed())

    def with_skipped(self) -> set[int]:
        """The numbers of the shards with wells that were skipped."""
        return self._numbers(self.skipped_folder, ".csv")

    def surplus(self) -> list[str]:
        """The names of Parquet files in the shards' folder that are not shards of this job."""
        expected = {self.name(shard) for shard in range(self.manifest.num_shards)}
        names = [f"{self.folder}/{name}" for name in self.store.list_names(self.folder)]
        return [name for name in names if name.endswith(".parquet") and name not in expected]

    def _numbers(self, folder: str, suffix: str) -> set[int]:
        names = set(self.store.list_names(folder))
        return {n for n in range(self.manifest.num_shards) if self.stem(n) + suffix in names}

    def write(
        self,
        shard: int,
        *,
        run: ShardRun,
        columns: Sequence[str],
        metadata: Sequence[Sequence[str]],
        features: Float[np.ndarray, "wells features"],
        names: Sequence[str] | None = None,
    ) -> None:
        """Write one shard; once its file exists, the shard is done.

        Args:
          shard: the shard's number.
          run: how it was made.
          columns: the names of the `Metadata_*` columns.
          metadata: for each well the values of these.
          features: for each well its embedding.
          names: of the features; None: those of `feature_names` without channels.
        """
        arrays = [pa.array([row[i] for row in metadata], pa.string()) for i in range(len(columns))]
        arrays += [pa.array(column, pa.float32()) for column in np.ascontiguousarray(features.T)]
        names = [*columns, *(names or feature_names(features.shape[1]))]
        table = pa.Table.from_arrays(arrays, names=names)
        footer = {
            _JOB: self.manifest.job_hash.encode(),
            _RUN: run.encode().encode(),
            _SHARD: str(shard).encode(),
        }
        footer[_SHA256] = _content_hash(table, footer).encode()
        out = io.BytesIO()
        # Floats of embeddings hardly repeat: a dictionary would only cost time.
        parquet.write_table(
            table.replace_schema_metadata(footer),
            out,
            compression="zstd",
            use_dictionary=list(columns),
            write_page_checksum=True,
        )
        self.store.write(self.name(shard), out.getvalue())

    def read(self, shard: int) -> tuple[pa.Table, ShardRun]:
        """Read and verify one shard.

        Raises:
          InputError: the shard does not exist.
          DamagedShardError: its file is unreadable, altered, incomplete or of another job.
        """
        path = self.store.full_path(self.name(shard))
        content = self.store.read(self.name(shard))
        try:
            table = _read_table(content)
            run = self._verify(shard, table)
        except DamagedShardError:
            raise
        except Exception as error:  # Arrow raises many types on damaged files, KeyError among them
            lines = str(error).splitlines() or [""]
            raise DamagedShardError(
                f"{path} is damaged ({type(error).__name__}: {lines[0]:.200})"
            ) from None
        return table.replace_schema_metadata(None), run

    def _verify(self, shard: int, table: pa.Table) -> ShardRun:
        path = self.store.full_path(self.name(shard))
        footer = table.schema.metadata or {}
        if footer.get(_JOB, b"").decode() != self.manifest.job_hash:
            raise DamagedShardError(
                f"{path} belongs to another job (another encoder, index or option)"
            )
        if self.manifest.format > 1 or _SHA256 in footer:
            if footer[_SHA256].decode() != _content_hash(table, footer):
                raise ValueError("its content does not match its checksum")
            if int(footer[_SHARD]) != shard:
                raise ValueError(f"it is shard {int(footer[_SHARD])}")
        run = json.loads(footer[_RUN])
        wells, skipped, crops = run.pop("wells"), run.pop("skipped"), run.pop("crops")
        if wells != table.num_rows or wells + skipped != self.manifest.shard_size(shard):
            raise ValueError(
                f"it has {table.num_rows} wells and {skipped} skipped ones of "
                f"{self.manifest.shard_size(shard)}"
            )
        for field in table.schema:
            expected = pa.string() if field.name.startswith(METADATA) else pa.float32()
            if field.type != expected:
                raise ValueError(f"the column '{field.name}' has the type {field.type}")
        if any(column.null_count for column in table.columns):
            raise ValueError("it has missing values")
        return ShardRun(wells, skipped, crops, run, arrays_sha256=run.pop("arrays_sha256", ""))

    def quarantine(self, name: str) -> str:
        """Move a file out of the way, into the folder for such files; returns its new name."""
        base = name.rpartition("/")[2]
        taken = set(self.store.list_names(self.quarantine_folder))
        number = next(n for n in range(len(taken) + 1) if f"{base}.{n}" not in taken)
        new_name = f"{self.quarantine_folder}/{base}.{number}"
        self.store.move(name, new_name)
        return new_name


def _read_table(content: bytes) -> pa.Table:
    with parquet.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        meta = file.metadata
        groups = range(meta.num_row_groups)
        encoded = sum(meta.row_group(i).total_byte_size for i in groups)
        rows = max([meta.num_rows, *(meta.row_group(i).num_rows for i in groups)])
        limit = _SMALL + _MAX_EXPANSION * len(content)
        for size in (encoded, 8 * rows * meta.num_columns):
            if not 0 <= size <= limit:
                raise ValueError(f"it claims {size} bytes of data in a file of {len(content)}")
        table = file.read(use_threads=False)
    table.validate(full=True)
    return table


def _content_hash(table: pa.Table, footer: dict[bytes, bytes]) -> str:
    """SHA-256 of all that a shard says: its footer, column names, metadata and features."""
    digest = hashlib.sha256()
    head = [footer[key].decode() for key in (_JOB, _RUN, _SHARD)]
    digest.update(json.dumps([head, table.column_names]).encode())
    for name in table.column_names:
        column = table[name]
        if name.startswith(METADATA):
            digest.update(json.dumps(column.to_pylist()).encode())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return digest.hexdigest()
