"""Images inside parquet tables, as RxRx3-core keeps them: one row per channel, encoded bytes.

A uri is the locator of a row: `train-00000.parquet#row=17`. Parquet is read by groups of rows, so
neighbouring rows cost little and random ones much: pack such a screen before training on it.
"""

import threading
from typing import Any

from mae_jax.data.image_uri import ImageURI, is_url
from mae_jax.data.storage import Remote, with_retries
from mae_jax.errors import InputError

_local = threading.local()  # each thread keeps the last row group it has read


def in_table(uri: ImageURI) -> bool:
    """Whether the uri is a row of a parquet table."""
    return uri.get("row") is not None


def open_table(path: str) -> Any:
    """The parquet file at a local path or URL.

    Raises:
      InputError: it is missing or no parquet file.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    def opened() -> Any:
        if is_url(path):
            import fsspec

            return parquet.ParquetFile(fsspec.open(path, "rb").open())
        return parquet.ParquetFile(path)

    try:
        return with_retries(opened, path, Remote.from_environment())
    except (pyarrow.ArrowException, OSError) as problem:
        raise InputError(f"{path} is no parquet file ({problem}).") from None


def image_column(schema: Any, path: str) -> str:
    """The name of the column that holds encoded images: binary, or a struct with `bytes`.

    Raises:
      InputError: there is no such column.
    """
    import pyarrow

    for field in schema:
        kind = field.type
        if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return str(field.name)
        if pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
            return str(field.name)
    raise InputError(f"{path} has no column of images: none holds bytes.")


def read_cell(uri: ImageURI) -> bytes:
    """The encoded image in the row that `uri` names.

    Raises:
      InputError: the file is missing or broken, or has no such row.
    """
    row = uri.get_int("row") or 0
    if getattr(_local, "path", None) != uri.path:
        _local.path, _local.first, _local.images = None, 0, []
        _local.file = open_table(uri.path)
        _local.path = uri.path
    if not _local.first <= row < _local.first + len(_local.images):
        _read_group(_local.file, uri.path, row)
    image = _local.images[row - _local.first].as_py()
    if isinstance(image, dict):
        image = image["bytes"]
    if image is None:
        raise InputError(f"{uri} holds no image.")
    return bytes(image)


def _read_group(file: Any, path: str, row: int) -> None:
    first = 0
    column = image_column(file.schema_arrow, path)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < first + rows:
            try:
                found = file.read_row_group(group, columns=[column]).column(0)
            except Exception as problem:  # arrow raises many kinds for a broken file
                raise InputError(f"{path} is broken ({problem}); copy it again.") from None
            _local.first, _local.images = first, found
            return
        first += rows
    raise InputError(f"{path} has no row {row}; it has {first}.")
