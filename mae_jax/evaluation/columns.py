"""Which columns of a table are features, and which are metadata."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mae_jax.errors import InputError

METADATA = "Metadata_"  # prefix of metadata columns

# A numeric column whose name begins with one of these words describes the well.
_WORDS = (
    "batch", "col", "column", "compound", "concentration", "dose", "experiment", "field", "gene",
    "id", "index", "passage", "perturbation", "plate", "replicate", "row", "seed", "site",
    "source", "time", "timepoint", "treatment", "unnamed", "well",
)  # fmt: skip


@dataclass(frozen=True)
class ReadOptions:
    """How a profiles table is read.

    Attributes:
      feature_columns: patterns (`*` and `?`) of the feature columns; empty: every numeric column
        but those whose names say that they describe the well (plate, row, dose, …).
      metadata: a second table with the metadata.
      key: columns that both tables have and that join them; empty: row by row.
      obsm: of AnnData, a matrix of `obsm` instead of `X`.
      allow_incomplete: read an embeddings folder whose job is not complete.
    """

    feature_columns: Sequence[str] = ()
    metadata: str | Path | None = None
    key: Sequence[str] = ()
    obsm: str | None = None
    allow_incomplete: bool = False


@dataclass(frozen=True)
class ColumnRoles:
    """What becomes of a table's columns.

    Attributes:
      features: names of the feature columns.
      metadata: column -> name as metadata, which has the prefix `Metadata_`.
      left_out: numeric columns that `feature_columns` does not name, and others that are neither.
    """

    features: list[str]
    metadata: dict[str, str]
    left_out: list[str] = field(default_factory=list)

    def describe(self) -> str:
        """The roles in one line."""
        some = self.features[0]
        if len(self.features) > 1:
            some += f" … {self.features[-1]}"
        text = f"{len(self.features)} features ({some}), {len(self.metadata)} metadata columns"
        renamed = [old for old, new in self.metadata.items() if old != new]
        if renamed:
            text += f"; taken as metadata, with the prefix {METADATA}: {_listed(renamed)}"
        if self.left_out:
            text += f"; left out: {_listed(self.left_out)}"
        return text


def column_roles(
    columns: Mapping[str, str], where: Path, options: ReadOptions, need_metadata: bool = True
) -> ColumnRoles:
    """Sort a table's columns into features and metadata.

    Args:
      columns: name -> "number", "text" or "other", in the table's order.
      where: the file, for messages.
      options: see `ReadOptions`.
      need_metadata: refuse a table without metadata.

    Raises:
      InputError: no feature, no metadata, or a pattern that no numeric column matches.
    """
    numeric = [
        name
        for name, kind in columns.items()
        if kind == "number" and not name.startswith(METADATA) and name not in options.key
    ]
    if options.feature_columns:
        for pattern in options.feature_columns:
            if not fnmatch.filter(numeric, pattern):
                raise InputError(f"{where} has no numeric column that matches '{pattern}'.")
        features = [
            n for n in numeric if any(fnmatch.fnmatchcase(n, p) for p in options.feature_columns)
        ]
    else:
        features = [n for n in numeric if not _describes_well(n)]
    chosen, metadata, left_out = set(features), {}, []
    for name, kind in columns.items():
        if name in chosen:
            continue
        if name.startswith(METADATA):
            metadata[name] = name
        elif METADATA + name in columns or kind == "other":
            left_out.append(name)
        elif kind == "text" or _describes_well(name) or name in options.key:
            metadata[name] = METADATA + name
        else:
            left_out.append(name)
    if not features:
        raise InputError(f"{where} has no numeric feature column besides {METADATA}….")
    if not metadata and need_metadata:
        raise InputError(
            f"{where} has no metadata column ({METADATA}…); give a second table with --metadata."
        )
    return ColumnRoles(features, metadata, left_out)


def _describes_well(name: str) -> bool:
    first = re.split(r"[\W_\d]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).strip("_"))[0]
    return first.lower() in _WORDS


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
