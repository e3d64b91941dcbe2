"""Metadata that are numbers: kept as text while a job runs, and written as numbers in tables.

A column is one of numbers if each of its texts is, and if the number says all that the text does:
"007" is text, and so is whatever identifies a well. An empty text is a missing value.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from mae_jax.embeddings.shards import WELL_COLUMNS

# Names, whatever they look like.
_TEXT = (*WELL_COLUMNS, "Metadata_Batch", "Metadata_Site")
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


def number_type(name: str, values: Iterable[str]) -> pa.DataType:
    """The Arrow type of a metadata column: int64, float64, or string."""
    given = {value for value in values if value}
    if name in _TEXT or not given:
        return pa.string()
    if all(_INTEGER.fullmatch(value) for value in given):
        return pa.int64()
    return pa.float64() if all(_NUMBER.fullmatch(value) for value in given) else pa.string()


def typed(values: Sequence[str], kind: pa.DataType) -> pa.Array:
    """Texts as an array of a type that `number_type` gave; a missing number is null."""
    if pa.types.is_string(kind):
        return pa.array(values, kind)
    convert = int if pa.types.is_integer(kind) else float
    return pa.array([convert(value) if value else None for value in values], kind)


def typed_frame(metadata: pd.DataFrame) -> pd.DataFrame:
    """A table of texts with numbers as int64 or, with missing ones, as float64 and NaN."""
    columns = {}
    for name in metadata.columns:
        texts = metadata[name].astype(str).tolist()
        kind = number_type(str(name), texts)
        if pa.types.is_string(kind):
            columns[name] = metadata[name]
        else:
            values = typed(texts, kind).to_numpy(zero_copy_only=False)
            columns[name] = pd.Series(np.asarray(values), index=metadata.index)
    return pd.DataFrame(columns, index=metadata.index)
