"""Known relationships between genes: pairs from the public databases."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mae_jax.errors import InputError
from mae_jax.files import replacing


def separator(path: Path) -> str:
    """Tab or comma: what the first line has."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return "\t" if "\t" in file.readline() else ","


@dataclass(frozen=True)
class Relationships:
    """Pairs of genes, each pair sorted and once.

    Attributes:
      name: of the database.
      pairs: (P, 2) gene names; the first sorts before the second.
      rows: rows read.
      self_pairs: rows that paired a gene with itself, left out.
      duplicates: rows that repeated a pair, in either order, left out.
    """

    name: str
    pairs: np.ndarray
    rows: int
    self_pairs: int
    duplicates: int

    def __len__(self) -> int:
        return len(self.pairs)

    @staticmethod
    def of(name: str, pairs: Iterable[Sequence[str]]) -> "Relationships":
        """Relationships from any pairs: sorts within each, drops self-pairs and repeats."""
        raw = np.array([(str(a).strip(), str(b).strip()) for a, b in pairs], dtype=object)
        raw = raw.reshape(-1, 2)
        named = (raw != "").all(axis=1) if len(raw) else np.zeros(0, bool)
        if not named.all():
            row = int(np.argmin(named)) + 1
            raise InputError(f"relationship {row} of {name} lacks a gene name; remove that row.")
        genes, codes = np.unique(raw.ravel().astype(str), return_inverse=True)
        ends = np.sort(codes.reshape(-1, 2), axis=1)
        ends = ends[ends[:, 0] != ends[:, 1]]
        unique = np.unique(ends, axis=0)
        return Relationships(
            name=name,
            pairs=genes.astype(object)[unique].reshape(-1, 2),
            rows=len(raw),
            self_pairs=len(raw) - len(ends),
            duplicates=len(ends) - len(unique),
        )

    @staticmethod
    def read(path: str | os.PathLike[str], name: str | None = None) -> "Relationships":
        """Read a table with the columns `entity1` and `entity2` (EFAAR's files, CSV or TSV).

        Raises:
          InputError: no such file, or other columns.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist; give a CSV with columns entity1,entity2.")
        try:
            table = pd.read_csv(path, sep=separator(path), dtype=str, keep_default_na=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError):
            raise InputError(f"{path} is not a readable table; give entity1,entity2.") from None
        if not {"entity1", "entity2"} <= set(table.columns):
            raise InputError(
                f"{path} has columns {', '.join(map(str, table.columns[:6]))}; it needs entity1 "
                "and entity2."
            )
        return Relationships.of(
            name or path.name.split(".")[0], table[["entity1", "entity2"]].to_numpy().tolist()
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write `entity1,entity2`."""
        with replacing(path) as tmp_path:
            pd.DataFrame(self.pairs, columns=["entity1", "entity2"]).to_csv(tmp_path, index=False)
        return Path(path)

    def within(self, genes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of which both genes are in `genes`.

        Returns:
          (M, 2) positions in `genes`, smaller first in the order of `genes`; and the numbers (M,)
          of those pairs in `self.pairs`.
        """
        index = pd.Index(genes)
        positions = np.stack(
            [index.get_indexer(pd.Index(self.pairs[:, i])) for i in (0, 1)], axis=1
        )
        numbers = np.flatnonzero((positions >= 0).all(axis=1))
        return np.sort(positions[numbers], axis=1), numbers
