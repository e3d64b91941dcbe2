"""The result of an evaluation: tables, figures and pages, saved as one folder."""

import html
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from mae_jax.evaluation.profiles import ColumnSchema, Profiles
from mae_jax.files import replacing, write_json, write_text
from mae_jax.html_table import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_ROWS = 10  # of each table in a notebook


@dataclass(frozen=True)
class ScoredWells:
    """The wells of one set of embeddings, for the pictures of a page.

    Attributes:
      before, after: the correction; `after` may have fewer wells (controls of the fit are gone).
      schema: the metadata columns of both.
      correction: its name.
      scores: one number per row of `after`, NaN where a well has none; None: no score per well.
      score_name: of `scores`.
    """

    before: Profiles
    after: Profiles
    schema: ColumnSchema
    correction: str = ""
    scores: Float[np.ndarray, " wells"] | None = None
    score_name: str = ""


@dataclass
class Result:
    """Tables and figures of one evaluation.

    Attributes:
      tables: name -> table, saved as `<name>.csv`.
      matrices: name -> square table with an index, saved as `<name>.parquet`.
      figures: name -> figure, saved as `<name>.png`.
      pages: file name -> text, such as an HTML page.
      settings: the specification and what the evaluation chose, saved as `settings.json`.
      summary: lines for the terminal.
      main: the file to open first.
      wells: embeddings -> their wells, which `save` does not write.
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    matrices: dict[str, pd.DataFrame] = field(default_factory=dict)
    figures: "dict[str, Figure]" = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)
    main: str = ""
    wells: dict[str, ScoredWells] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = self.summary or [
            f"{name}: {len(table)} rows" for name, table in self.tables.items()
        ]
        return "\n".join([f"Result of {self.settings.get('evaluation', 'an evaluation')}:", *lines])

    def _repr_html_(self) -> str:
        """The summary, and the first rows of each table."""
        title = f"evaluation {self.settings.get('evaluation', '')}"
        rows = {name: f"{len(table)} rows" for name, table in self.tables.items()}
        rows |= {name: f"{len(matrix)} rows" for name, matrix in self.matrices.items()}
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary)
        shown = "".join(
            f"<p><b>{html.escape(name)}</b></p>{table.head(_SHOWN_ROWS).to_html(index=False)}"
            for name, table in self.tables.items()
        )
        return html_table(title, rows) + lines + shown

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write everything into `folder` and return the path of the main file."""
        folder = Path(folder)
        for name, table in self.tables.items():
            write_csv(folder / f"{name}.csv", table)
        for name, matrix in self.matrices.items():
            with replacing(folder / f"{name}.parquet") as tmp_path:
                matrix.to_parquet(tmp_path)
        for name, figure in self.figures.items():
            with replacing(folder / f"{name}.png") as tmp_path:
                figure.savefig(tmp_path, format="png")
        for name, text in self.pages.items():
            write_text(folder / name, text)
        write_json(folder / "settings.json", self.settings)
        return folder / self.main


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with six significant digits."""
    with replacing(path) as tmp_path:
        table.to_csv(tmp_path, index=False, float_format="%.6g")
