"""Paper mode: the paper's tables and figures from our embeddings, next to the published numbers.

The published numbers are data (`published.csv`: table, model, dataset, metric, value, spread,
source), never mixed into ours: each row says whose it is.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import pandas as pd

from mae_jax.flops import MAEShape, mae_training_flops, paper_training_flops

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

TITLES = {
    "2": "Impact of batch correction (recall of known relationships)",
    "3": "Recall of known relationships by model",
    "4": "CPJUMP1: fraction retrieved, mean ± standard deviation over conditions",
    "5": "StringDB recall at 5 % false positives on gene sets",
    "6": "Recall of known relationships, smaller models",
    "7": "CellProfiler features: median R² ± median absolute deviation",
    "8": "CPJUMP1 perturbation retrieval by condition",
    "9": "CPJUMP1 sibling retrieval by condition",
}
FIGURES = {
    "fig5_percentiles": "Fig. 5, right. Recall against the share of pairs in the tails",
    "cosines": "Cosines between genes",
    "fig5_scaling_papers_count": "Fig. 5, left. Recall against training FLOPs, as the paper counts",
    "fig8_scaling_true_count": "Fig. 8. Recall against training FLOPs, truly counted",
    "fig6_features": "Fig. 6 and 9. R² of CellProfiler features by category",
}
COLUMNS = ["table", "model", "dataset", "metric", "value", "spread", "source"]
OURS = "measured here"
# What follows ± in the published rows, by table; where they have it.
PUBLISHED_SPREADS = {
    "4": "the standard deviation over cell types, modalities and time points",
    "7": "the median absolute deviation over features",
}
# What follows ± in our rows, by table.
SPREADS = {
    "2": "half of the 95 % interval, in which pairs that share a gene count as dependent",
    "3": "half of the 95 % interval, in which pairs that share a gene count as dependent",
    "4": "the standard deviation over conditions (ddof 1)",
    "6": "half of the 95 % interval, in which pairs that share a gene count as dependent",
    "7": "the median absolute deviation over features",
}


def published(table: str | None = None) -> pd.DataFrame:
    """The paper's numbers: table, model, dataset, metric, value, spread, source.

    In Table 2 the metric is `correction|database`; the databases are called CORUM, HuMAP,
    Reactome and StringDB throughout.
    """
    with resources.files("mae_jax.evaluation").joinpath("published.csv").open() as file:
        rows = pd.read_csv(file, dtype={"table": str}).fillna({"dataset": ""})
    return rows if table is None else rows[rows["table"] == table].reset_index(drop=True)


@dataclass
class Paper:
    """Tables and figures, gathered one by one and written together.

    Attributes:
      rows: our numbers, in the columns of `published`.
      figures: file name without suffix -> figure.
      notes: what a reader must know (what was dropped, which genes made up a mean …).
    """

    rows: list[pd.DataFrame] = field(default_factory=list)
    figures: "dict[str, Figure]" = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, table: str, ours: pd.DataFrame) -> None:
        """Add our numbers: model, metric, value, and optionally spread and dataset."""
        full = ours.assign(table=table, source=OURS)
        for name in ("dataset", "spread"):
            if name not in full:
                full[name] = "" if name == "dataset" else float("nan")
        self.rows.append(full[COLUMNS])

    def add_recall(self, recalls: pd.DataFrame, main: str) -> None:
        """Tables 2, 3 and 6 from `recall_tables`' table; `main` is the correction of Table 3."""
        half = (recalls["high"] - recalls["low"]) / 2
        rows = recalls.assign(model=recalls["embeddings"], value=recalls["recall"], spread=half)
        by_label = rows.assign(metric=rows["label"] + "|" + rows["database"])
        self.add("2", by_label)
        for table in ("3", "6"):
            chosen = rows[rows["correction"] == main]
            self.add(table, chosen.assign(metric=chosen["database"]))
        used = rows.drop_duplicates(["embeddings", "database"])
        for row in used.itertuples():
            self.notes.append(
                f"{row.embeddings}, {row.database}: {row.pairs_used:,} pairs among {row.genes:,} "
                f"genes of the map; {row.pairs_dropped:,} pairs have a gene outside of it."
            )

    def add_cpjump1(self, model: str, table: pd.DataFrame, summary: pd.DataFrame) -> None:
        """Tables 4, 8 and 9 from `cpjump1.benchmark` and `cpjump1.summary`."""
        self.add(
            "4",
            pd.DataFrame(
                {
                    "model": model,
                    "metric": summary["task"],
                    "value": summary["mean"],
                    "spread": summary["std"],
                }
            ),
        )
        for number, column in (("8", "perturbation"), ("9", "siblings")):
            rows = table.dropna(subset=[column])
            values = {"model": model, "metric": rows["condition"], "value": rows[column]}
            self.add(number, pd.DataFrame(values))
        for condition, note in zip(table["condition"], table["note"], strict=True):
            if note:
                self.notes.append(f"{model}, {condition}: {note}.")

    def add_features(self, model: str, by_category: pd.DataFrame) -> None:
        """Table 7 from `FeaturePrediction.by_category`."""
        renamed = {"category": "metric", "median": "value", "mad": "spread"}
        self.add("7", by_category.rename(columns=renamed).assign(model=model))

    def add_gene_sets(self, model: str, table: pd.DataFrame) -> None:
        """Table 5 from `recall_at_false_positives`."""
        renamed = table.rename(columns={"set": "metric", "recall": "value"})
        self.add("5", renamed.assign(model=model))

    def table(self, number: str) -> pd.DataFrame:
        """Ours, then the published rows, in the long form of the CSV files."""
        ours = [r for r in self.rows if (r["table"] == number).all()]
        if not ours:
            return pd.DataFrame(columns=COLUMNS)
        return pd.concat([*ours, published(number)], ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table that has rows of ours, by its number."""
        return {n: rows for n in TITLES if not (rows := self.table(n)).empty}

    def page(self, title: str = "The paper's evaluation") -> str:
        """One HTML page with all tables, figures and notes, which loads nothing from elsewhere."""
        sections = [
            (f"Table {n}", TITLES[n], _spreads(n), _wide(rows)) for n, rows in self.tables().items()
        ]
        images = []
        for name, figure in self.figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png")
            images.append((FIGURES.get(name, name), base64.b64encode(buffer.getvalue()).decode()))
        return _template().render(title=title, sections=sections, images=images, notes=self.notes)


def with_flops(recalls: pd.DataFrame, shapes: Mapping[str, tuple[MAEShape, float]]) -> pd.DataFrame:
    """Recall rows of the models in `shapes`, with both counts of their training FLOPs.

    Args:
      recalls: a table with the column `embeddings`.
      shapes: embeddings -> (shape of the network, crops seen in training).
    """
    known = recalls[recalls["embeddings"].isin(list(shapes))].copy()
    pairs = [shapes[name] for name in known["embeddings"]]
    known["paper_flops"] = [paper_training_flops(shape.encoder, n) for shape, n in pairs]
    known["true_flops"] = [mae_training_flops(shape, n) for shape, n in pairs]
    return known.reset_index(drop=True)


def _spreads(number: str) -> list[str]:
    """What ± means in a table, in sentences."""
    rows = (("shaded", SPREADS), ("published", PUBLISHED_SPREADS))
    return [f"± in the {which} rows: {words[number]}." for which, words in rows if number in words]


def _wide(rows: pd.DataFrame) -> dict[str, object]:
    """One line per model (and correction, in Table 2), one column per metric; ours first."""
    parts = rows["metric"].str.rpartition("|")
    named = (rows["model"] + ": " + parts[0]).where(parts[0] != "", rows["model"])
    rows = rows.assign(model=named, metric=parts[2])
    metrics = list(dict.fromkeys(rows["metric"]))
    lines = []
    for (model, dataset, source), group in rows.groupby(
        ["model", "dataset", "source"], sort=False, dropna=False
    ):
        cells = {}
        columns = (group["metric"], group["value"], group["spread"])
        for metric, value, spread in zip(*columns, strict=True):
            more = f" ± {spread:.3f}" if spread == spread else ""
            cells[metric] = f"{value:.3f}{more}"
        lines.append(
            {
                "model": model,
                "dataset": dataset,
                "source": source,
                "ours": source == OURS,
                "cells": [cells.get(m, "–") for m in metrics],
            }
        )
    lines.sort(key=lambda line: not line["ours"])
    return {"metrics": metrics, "lines": lines}


def _template() -> "jinja2.Template":
    import jinja2

    return jinja2.Environment(autoescape=True).from_string(_PAGE)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
:root { --ink: #22303c; --paper: #fff; --line: #ddd; --ours: #eef6ff }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf0; --paper: #12181e; --line: #3a4753; --ours: #1d3040 } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: var(--ink); background: var(--paper) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
td:first-child, td:nth-child(2), td:last-child { text-align: left }
th:first-child, th:nth-child(2), th:last-child { text-align: left }
@media print { body { max-width: none; margin: 0 } .wide { overflow: visible }
  table { font-size: 8px } td, th { padding: .1rem .25rem }
  h2, h2 + p { break-after: avoid } tr, img { break-inside: avoid }
  tr.ours { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
tr.ours { background: var(--ours); font-weight: 600 }
img { max-width: 100%; background: #fff; border-radius: 6px } li { overflow-wrap: anywhere }
</style>
<h1>{{ title }}</h1>
<p>Shaded rows were measured here; the others are the published numbers, with their source.
Screens, genes and plates may differ, so compare the pattern before the figures.</p>
{% for name, heading, spread, table in sections %}
<h2>{{ name }}. {{ heading }}</h2>
{% if spread %}<p>{{ spread | join(" ") }}</p>{% endif %}
<div class="wide"><table><tr><th>model</th><th>trained on</th>
{% for m in table.metrics %}<th>{{ m }}</th>{% endfor %}<th>source</th></tr>
{% for line in table.lines %}<tr{% if line.ours %} class="ours"{% endif %}>
<td>{{ line.model }}</td><td>{{ line.dataset }}</td>
{% for c in line.cells %}<td>{{ c }}</td>{% endfor %}<td>{{ line.source }}</td></tr>
{% endfor %}</table></div>
{% endfor %}
{% for name, data in images %}<h2>{{ name }}</h2>
<img alt="{{ name }}" src="data:image/png;base64,{{ data }}">{% endfor %}
{% if notes %}<h2>Notes</h2><ul>{% for n in notes %}<li>{{ n }}</li>{% endfor %}</ul>{% endif %}
</html>
"""
