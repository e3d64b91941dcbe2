"""The tables of a complete job: one Parquet file per plate, which any reader of Parquet opens.

`pandas.read_parquet(folder)` reads all of them. Metadata that are numbers are numbers in them,
except for those that identify a well: a plate called "0012" keeps its name.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from mae_jax.embeddings.number_columns import number_type, typed
from mae_jax.embeddings.shards import METADATA, WELL_COLUMNS, ShardFiles

_PLATE = WELL_COLUMNS[:3]
Plate = tuple[str, ...]


def write_plate_tables(files: ShardFiles) -> list[str]:
    """Write the table of every plate from the shards of a complete job; returns their names.

    The rows are in the order of the index. The shards are read twice: once for the types of the
    metadata, which are the same in all tables, and once for the tables.

    Raises:
      InputError: a shard is damaged or missing.
    """
    shards = range(files.manifest.num_shards)
    texts: dict[str, set[str]] = {}
    last: dict[Plate, int] = {}
    for shard in shards:
        table = files.read(shard)[0]
        for column in table.column_names:
            if column.startswith(METADATA):
                texts.setdefault(column, set()).update(table[column].to_pylist())
        last.update(dict.fromkeys(_plates(table), shard))
    kinds = {column: number_type(column, sorted(values)) for column, values in texts.items()}
    names = plate_names(list(last))
    written = []
    with ExitStack() as stack:
        open_writers: dict[Plate, tuple[Path, parquet.ParquetWriter]] = {}
        for shard in shards:
            table = _typed_table(files.read(shard)[0], kinds)
            for plate, rows in _by_plate(table):
                if plate not in open_writers:
                    path = files.store.tmp_path(names[plate])
                    writer = parquet.ParquetWriter(
                        path, rows.schema, compression="zstd", write_page_checksum=True,
                        use_dictionary=[name for name in kinds if pa.types.is_string(kinds[name])],
                    )  # fmt: skip
                    stack.callback(path.unlink, missing_ok=True)
                    stack.callback(writer.close)
                    open_writers[plate] = path, writer
                path, writer = open_writers[plate]
                writer.write_table(rows)
                if last[plate] == shard:
                    writer.close()
                    files.store.commit(path, names[plate])
                    written.append(names[plate])
                    del open_writers[plate]
    return sorted(written)


def plate_names(plates: Sequence[Plate]) -> dict[Plate, str]:
    """The file name of each plate (source, experiment, plate).

    A name has the words in which the plates differ, and always the plate's own.
    """
    varies = [len({plate[i] for plate in plates}) > 1 for i in range(len(_PLATE))]
    names: dict[Plate, str] = {}
    for plate in plates:
        words = [word for i, word in enumerate(plate) if varies[i] or i == len(plate) - 1]
        stem = "__".join(re.sub(r"[^\w.+-]+", "-", word).strip("-") for word in words)
        # Names that begin with these are passed over by readers of Parquet folders.
        stem = stem.lstrip("._") or "plate"
        number = sum(name.rpartition(".")[0].partition("~")[0] == stem for name in names.values())
        names[plate] = f"{stem}~{number + 1}.parquet" if number else f"{stem}.parquet"
    return names


def _plates(table: pa.Table) -> list[Plate]:
    """The plate of each row."""
    return list(zip(*(table[name].to_pylist() for name in _PLATE), strict=True))


def _by_plate(table: pa.Table) -> Iterator[tuple[Plate, pa.Table]]:
    """The rows of each plate, in their order."""
    rows: dict[Plate, list[int]] = {}
    for number, plate in enumerate(_plates(table)):
        rows.setdefault(plate, []).append(number)
    for plate, numbers in rows.items():
        yield plate, table.take(pa.array(numbers, pa.int64()))


def _typed_table(table: pa.Table, kinds: dict[str, pa.DataType]) -> pa.Table:
    columns = [
        typed(table[name].to_pylist(), kinds[name]) if name in kinds else table[name]
        for name in table.column_names
    ]
    return pa.table(columns, names=table.column_names)
