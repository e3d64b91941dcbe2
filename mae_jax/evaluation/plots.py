"""The paper's figures from our tables (Fig. 5, 6, 8, 9), and a heat map of gene cosines."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def percentiles(sweep: pd.DataFrame) -> "Figure":
    """Fig. 5, right: recall against the width of the tails, one panel per database.

    Args:
      sweep: embeddings, database, percentile, recall.
    """
    databases = sorted(set(sweep["database"]))
    figure, axes = _panels(len(databases))
    for ax, database in zip(axes, databases, strict=True):
        mine = sweep[sweep["database"] == database]
        for name, line in mine.groupby("embeddings", sort=False):
            ax.plot(2 * line["percentile"], line["recall"], label=str(name), linewidth=1.5)
        ax.plot([0, 100], [0, 1], color="0.6", linestyle=":", label="chance")
        ax.set(title=database, xlabel="cosine pairs in both tails (%)", ylabel="recall")
        ax.set(xlim=(0, 50), ylim=(0, 1))
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def scaling(table: pd.DataFrame, count: str = "paper_flops") -> "Figure":
    """Fig. 5, left, and Fig. 8: recall against training FLOPs, one panel per database.

    Args:
      table: embeddings, database, recall, low, high, paper_flops, true_flops.
      count: which of the two counts.
    """
    databases = sorted(set(table["database"]))
    figure, axes = _panels(len(databases))
    for ax, database in zip(axes, databases, strict=True):
        mine = table[table["database"] == database].sort_values(count)
        spread = [mine["recall"] - mine["low"], mine["high"] - mine["recall"]]
        ax.errorbar(mine[count], mine["recall"], yerr=spread, fmt="o", capsize=2)
        if len(mine) > 1 and mine[count].nunique() > 1:
            x = np.log10(mine[count].to_numpy(dtype=float))
            slope, start = np.polyfit(x, mine["recall"].to_numpy(dtype=float), 1)
            ax.plot(mine[count], start + slope * x, color="0.6", linewidth=1)
        for row in mine.itertuples():
            at = (getattr(row, count), row.recall)
            ax.annotate(str(row.embeddings), at, (6, 3), textcoords="offset points", fontsize=7)
        ax.set(title=database, xlabel="training FLOPs", ylabel="recall", xscale="log")
        ax.margins(x=0.25)  # room for the last name
    return figure


def features(tables: Mapping[str, pd.DataFrame]) -> "Figure":
    """Fig. 6 and 9: the distribution of R² in each category, for every model.

    Args:
      tables: model -> table with category and r2.
    """
    categories = sorted({c for t in tables.values() for c in t["category"]})
    figure, (ax,) = _panels(1, width=8.0)
    step = 0.8 / max(len(tables), 1)
    for i, (name, table) in enumerate(tables.items()):
        values = [table.loc[table["category"] == c, "r2"].dropna().to_numpy() for c in categories]
        filled = [(j, v) for j, v in enumerate(values) if len(v)]
        at = [j + (i + 0.5) * step - 0.4 for j, _ in filled]
        boxes = ax.boxplot(
            [v for _, v in filled], positions=at, widths=0.8 * step, patch_artist=True, sym="."
        )
        for box in boxes["boxes"]:
            box.set_facecolor(f"C{i}")
        ax.plot([], [], color=f"C{i}", linewidth=6, label=name)
    ax.set(ylabel="R² on the other experiment", ylim=(-0.5, 1))
    ax.set_xticks(range(len(categories)), categories)
    ax.legend(fontsize=8, frameon=False)
    return figure


def heatmap(cosines: pd.DataFrame, title: str = "") -> "Figure":
    """All cosines between genes, genes ordered by hierarchical clustering (average linkage)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    values = cosines.to_numpy(dtype=float)
    order = np.arange(len(values))
    if len(values) > 2:
        distance = np.clip(1 - values, 0, 2)
        distance = (distance + distance.T) / 2
        np.fill_diagonal(distance, 0)
        order = leaves_list(linkage(squareform(distance, checks=False), "average"))
    figure, (ax,) = _panels(1, width=6.0, height=5.5)
    shown = ax.imshow(values[np.ix_(order, order)], vmin=-1, vmax=1, cmap="RdBu_r")
    figure.colorbar(shown, ax=ax, label="cosine")
    names = [str(n) for n in cosines.index[order]]
    if len(names) <= 60:
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        ax.set_yticks(range(len(names)), names, fontsize=6)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    ax.set_title(title)
    return figure


def _panels(count: int, width: float = 3.6, height: float = 3.2):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained", dpi=130)
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]
