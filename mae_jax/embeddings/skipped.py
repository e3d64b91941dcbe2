"""Reports on the wells of a job that could not be embedded: `skipped/*.csv` and `skipped.csv`."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mae_jax.embeddings.shards import SKIPPED, ShardFiles

MERGED = "skipped.csv"


@dataclass(frozen=True)
class SkippedWell:
    """A well without embedding: the values of its `Metadata_*` columns, and the reason."""

    metadata: tuple[str, ...]
    reason: str


def write_skipped(
    files: ShardFiles, shard: int, columns: Sequence[str], skipped: Sequence[SkippedWell]
) -> None:
    """Write the report of one shard, before the shard itself; without wells, remove an old one."""
    name = f"{SKIPPED}/{files.stem(shard)}.csv"
    if skipped:
        files.store.write(name, _csv(columns, [[*item.metadata, item.reason] for item in skipped]))
    else:
        files.store.delete(name)


def merge_skipped(files: ShardFiles, columns: Sequence[str]) -> None:
    """Write `skipped.csv`, the report on all shards so far.

    Several tasks may do so at once; the last one to look sees every report there is.
    """
    merged: set[int] | None = None
    while merged != (current := files.with_skipped()):
        rows = []
        for shard in sorted(current):
            text = files.store.read(f"{SKIPPED}/{files.stem(shard)}.csv").decode("utf-8", "replace")
            rows += list(csv.reader(io.StringIO(text)))[1:]
        files.store.write(MERGED, _csv(columns, rows))
        merged = current


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*columns, "Reason"])
    out.writerows(rows)
    return text.getvalue().encode()
