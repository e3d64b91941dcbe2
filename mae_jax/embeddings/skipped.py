"""Reports on the wells that could not be embedded: `_skipped/*.csv`, and `_skipped.csv` of all."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mae_jax.embeddings.shards import ShardFiles


@dataclass(frozen=True)
class SkippedWell:
    """A well without embedding: the values of its `Metadata_*` columns, and the reason."""

    metadata: tuple[str, ...]
    reason: str


def merged_name(files: ShardFiles) -> str:
    """The name of the report on all shards."""
    return f"{files.skipped_folder}.csv"


def write_skipped(
    files: ShardFiles, shard: int, columns: Sequence[str], skipped: Sequence[SkippedWell]
) -> None:
    """Write the report of one shard, before the shard itself; without wells, remove an old one."""
    name = f"{files.skipped_folder}/{files.stem(shard)}.csv"
    if skipped:
        files.store.write(name, _csv(columns, [[*item.metadata, item.reason] for item in skipped]))
    else:
        files.store.delete(name)


def merge_skipped(files: ShardFiles, columns: Sequence[str]) -> None:
    """Write `_skipped.csv`, the report on all shards so far.

    Several tasks may do so at once; the last one to look sees every report there is.
    """
    merged: set[int] | None = None
    while merged != (current := files.with_skipped()):
        rows = []
        for shard in sorted(current):
            name = f"{files.skipped_folder}/{files.stem(shard)}.csv"
            text = files.store.read(name).decode("utf-8", "replace")
            rows += list(csv.reader(io.StringIO(text)))[1:]
        files.store.write(merged_name(files), _csv(columns, rows))
        merged = current


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*columns, "Reason"])
    out.writerows(rows)
    return text.getvalue().encode()
