"""Images inside parquet tables, as RxRx3-core keeps them: one row per channel, encoded bytes.

The URI of an image is that of a row: `train-00000.parquet#row=17`. Parquet is read by groups of
rows, so neighboring rows cost little and random ones much: pack such a screen before training.
"""

import os
import threading
from typing import TYPE_CHECKING

from mae_jax.data.image_uri import ImageURI, is_url
from mae_jax.data.storage import Remote, check_protocol, reason, with_retries
from mae_jax.errors import InputError, MachineError, redact_credentials

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet as parquet

MAX_GROUP_BYTES = 2**31  # of the images in one group of rows

_local = threading.local()  # each thread keeps the last row group it has read


def open_table(path: str) -> "parquet.ParquetFile":
    """Opens the parquet file at a local path or URL.

    Raises:
      InputError: it is missing or no parquet file.
      MachineError: it is out of reach.
    """
    import pyarrow.parquet as parquet

    check_protocol(path)

    def open_remote() -> parquet.ParquetFile:
        import fsspec

        return parquet.ParquetFile(fsspec.open(path, "rb").open())

    if is_url(path):
        return with_retries(open_remote, path, Remote.from_environment())
    if not os.path.isfile(path):
        problem = "is no regular file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{path} {problem}.")
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # arrow raises exceptions of many types on damaged files
        raise InputError(f"{path} is no parquet file ({reason(error)}).") from None


def image_column(schema: "pyarrow.Schema", path: str) -> str:
    """The name of the column that holds encoded images: binary, or a struct with `bytes`.

    Raises:
      InputError: there is no such column.
    """
    import pyarrow

    for field in schema:
        dtype = field.type
        if pyarrow.types.is_struct(dtype) and dtype.get_field_index("bytes") >= 0:
            return str(field.name)
        if pyarrow.types.is_binary(dtype) or pyarrow.types.is_large_binary(dtype):
            return str(field.name)
    raise InputError(f"{redact_credentials(path)} has no column of images: none holds bytes.")


def read_cell(uri: ImageURI) -> bytes:
    """The encoded image in the row that a URI selects.

    Raises:
      InputError: the file is missing or broken, or has no such row.
      MachineError: it is out of reach.
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
    if not isinstance(image, bytes):
        raise InputError(f"{uri} holds no image.")
    return image


def _read_group(file: "parquet.ParquetFile", path: str, row: int) -> None:
    first = 0
    name = redact_credentials(path)
    column = image_column(file.schema_arrow, path)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < first + rows:
            size = file.metadata.row_group(group).total_byte_size
            if size > MAX_GROUP_BYTES:
                raise InputError(
                    f"{name} has groups of rows of {size / 2**30:.2g} GiB, more than the limit; "
                    "write it with smaller ones."
                )
            try:
                images = file.read_row_group(group, columns=[column]).column(0)
            except MemoryError:
                raise MachineError(f"memory ran out while {name} was read.") from None
            except Exception as error:  # arrow raises exceptions of many types on damaged files
                raise InputError(f"{name} is broken ({reason(error)}); copy it again.") from None
            _local.first, _local.images = first, images
            return
        first += rows
    raise InputError(f"{name} has no row {row}; it has {first}.")
