"""Plots of losses, recall and maps, each a function from tables to a matplotlib figure.

Figures are made without pyplot, so that none is kept open and no display is needed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One color per encoder in all plots; distinct in print and for the color-blind.
PALETTE = ("#0b6e4f", "#c8553d", "#6c5b7b", "#8a8a8a", "#2f6690", "#b58900")
INK, FAINT = "#22303c", "#d7dee5"
CHANCE = 0.10  # recall by chance of the two 5 % tails
_MAX_TICK_LABELS = 80


def palette(names: Sequence[str]) -> dict[str, str]:
    """A color for every name, by its position."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def loss_curves(metrics: Sequence[Mapping[str, Any]]) -> "Figure":
    """Training and validation loss against the step, both axes logarithmic (as Fig. 3).

    Args:
      metrics: rows with `step` and `train/loss` or `validation/loss`.
    """
    figure, (axes,) = blank_panels(1, 5.6, 3.4)
    series = (("train/loss", "training", "-"), ("validation/loss", "validation", "--"))
    for (key, label, style), color in zip(series, PALETTE, strict=False):
        steps, losses = _series(metrics, key)
        if steps:
            marker = "o" if len(steps) < 30 else None
            axes.plot(steps, losses, style, color=color, label=label, marker=marker, ms=3)
    _log_log(axes, "loss (Eq. 3)")
    return figure


def compare_losses(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> "Figure":
    """Reconstruction loss (Eq. 1) of several runs, both axes logarithmic (Fig. 3).

    Runs with and without the Fourier term compare by this term alone, since their sums differ. A
    flat stretch after the first fall is the saddle; a second fall leads out of it.

    Args:
      runs: name -> metrics, as in `loss_curves`, with `train/mae` where the run has it.
    """
    figure, (axes,) = blank_panels(1, 5.6, 3.4)
    for (name, metrics), color in zip(runs.items(), PALETTE, strict=False):
        key = "train/mae" if any("train/mae" in row for row in metrics) else "train/loss"
        steps, losses = _series(metrics, key)
        if steps:
            axes.plot(steps, losses, color=color, label=name)
    _log_log(axes, "reconstruction loss (Eq. 1)")
    return figure


def recall_against_percentile(
    sweep: pd.DataFrame, names: Sequence[str] | None = None, *, max_percent: float = 50.0
) -> "Figure":
    """Recall against the width of the two tails, one panel per database (Fig. 5, right).

    Args:
      sweep: embeddings, database, percentile (of one tail), recall.
      names: the embeddings to draw, in the order of their colors; None for all.
      max_percent: the right end of the axis, in percent of all pairs in both tails.
    """
    databases = sorted(set(sweep["database"]))
    names = list(dict.fromkeys(sweep["embeddings"])) if names is None else names
    width = 5.6 if len(databases) == 1 else 3.6
    figure, panels = blank_panels(len(databases), width, 3.4)
    for axes, database in zip(panels, databases, strict=True):
        rows = sweep[sweep["database"] == database]
        for name, color in palette(names).items():
            curve = rows[rows["embeddings"] == name].sort_values("percentile")
            axes.plot(2 * curve["percentile"], curve["recall"], color=color, label=name)
        axes.plot([0, 100], [0, 1], ":", color=INK, lw=1, label="by chance")
        axes.axvline(100 * CHANCE, color=FAINT, lw=1, zorder=0)
        axes.set(title=database if len(databases) > 1 else "", ylabel="recall of known pairs")
        axes.set(xlabel="pairs in both tails (%)", xlim=(0, max_percent), ylim=(0, 1))
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def recall_against_flops(table: pd.DataFrame, count: str = "paper_flops") -> "Figure":
    """Recall against training FLOPs, one panel per database (Fig. 5, left, and Fig. 8).

    Args:
      table: embeddings, database, recall, low, high, paper_flops, true_flops.
      count: which of the two counts.
    """
    databases = sorted(set(table["database"]))
    figure, panels = blank_panels(len(databases), 3.6, 3.2)
    for axes, database in zip(panels, databases, strict=True):
        rows = table[table["database"] == database].sort_values(count)
        flops, recall = rows[count].to_numpy(float), rows["recall"].to_numpy(float)
        spread = [recall - rows["low"], rows["high"] - recall]
        axes.errorbar(flops, recall, yerr=spread, fmt="o", capsize=2, color=PALETTE[0])
        if len(np.unique(flops)) > 2:  # two points always lie on a line
            slope, intercept = np.polyfit(np.log10(flops), recall, 1)
            axes.plot(flops, intercept + slope * np.log10(flops), color=FAINT, lw=1)
        for name, x, y in zip(rows["embeddings"], flops, recall, strict=True):
            axes.annotate(str(name), (x, y), (6, 3), textcoords="offset points", fontsize=7)
        axes.set(title=database, xlabel="training FLOPs", ylabel="recall", xscale="log")
        axes.margins(x=0.25)  # room for the last name
    return figure


def recall_bars(recall: pd.DataFrame, names: Sequence[str], corrections: Sequence[str]) -> "Figure":
    """Recall with its interval per correction and encoder, with the chance line.

    Args:
      recall: embeddings, correction, recall, low, high; one row per pair of the first two.
      names: the embeddings, in the order of their colors.
      corrections: the corrections, from left to right.
    """
    figure, (axes,) = blank_panels(1, 9.2, 3.6)
    width = 0.8 / len(names)
    for i, (name, color) in enumerate(palette(names).items()):
        rows = recall[recall["embeddings"] == name].set_index("correction").loc[list(corrections)]
        x = np.arange(len(corrections)) + (i - (len(names) - 1) / 2) * width
        axes.bar(x, rows["recall"], width, color=color, label=name)
        spread = [rows["recall"] - rows["low"], rows["high"] - rows["recall"]]
        axes.errorbar(x, rows["recall"], np.clip(spread, 0, None), fmt="none", ecolor=INK, lw=0.8)
    axes.axhline(CHANCE, ls=":", color=INK, lw=1)
    axes.set_xticks(range(len(corrections)), [c.replace("_", " ") for c in corrections])
    axes.tick_params(axis="x", labelsize=8, rotation=20)
    axes.set(ylabel="recall", ylim=(0, 1))
    axes.legend(frameon=False, ncols=len(names), fontsize=9)
    return figure


def feature_r2(tables: Mapping[str, pd.DataFrame]) -> "Figure":
    """Distribution of R² per category of CellProfiler features and model (Fig. 6 and 9).

    Args:
      tables: model -> table with category and r2.
    """
    categories = sorted({c for t in tables.values() for c in t["category"]})
    figure, (axes,) = blank_panels(1, 8.0, 3.2)
    step = 0.8 / max(len(tables), 1)
    for i, (name, table) in enumerate(tables.items()):
        color = PALETTE[i % len(PALETTE)]
        values = [table.loc[table["category"] == c, "r2"].dropna().to_numpy() for c in categories]
        filled = [(j, v) for j, v in enumerate(values) if len(v)]
        positions = [j + (i + 0.5) * step - 0.4 for j, _ in filled]
        boxes = axes.boxplot(
            [v for _, v in filled],
            positions=positions,
            widths=0.8 * step,
            patch_artist=True,
            sym=".",
            medianprops={"color": "black", "linewidth": 1.5},
        )
        for box in boxes["boxes"]:
            box.set_facecolor(color)
        axes.plot([], [], color=color, linewidth=6, label=name)
    axes.set(ylabel="R² on the other experiment", ylim=(-0.5, 1))
    axes.set_xticks(range(len(categories)), categories)
    axes.legend(fontsize=8, frameon=False)
    return figure


def cosine_heatmap(
    cosines: pd.DataFrame, groups: Mapping[str, str] | None = None, title: str = ""
) -> "Figure":
    """Heat map of gene × gene cosines.

    Args:
      cosines: a square table with the same genes as index and columns.
      groups: gene -> group (a complex); genes of one group are adjacent and boxed. None orders the
        genes by hierarchical clustering (average linkage).
      title: above the map.
    """
    from matplotlib.patches import Rectangle

    if groups is None:
        order = _clustered(cosines)
    else:
        order = sorted(cosines.index, key=lambda gene: (groups.get(gene, "~"), gene))
    values = cosines.loc[order, order].to_numpy(float)
    figure, (axes,) = blank_panels(1, 6.4, 5.6)
    axes.grid(False)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="cosine")
    labels = [str(gene) for gene in order] if len(order) <= _MAX_TICK_LABELS else []
    size = 7 if len(labels) <= 50 else 5
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    start = 0
    while start < len(order):
        group = (groups or {}).get(order[start])
        end = start + 1
        while end < len(order) and group is not None and (groups or {}).get(order[end]) == group:
            end += 1
        if end - start > 1:
            corner, side = (start - 0.5, start - 0.5), end - start
            axes.add_patch(Rectangle(corner, side, side, fill=False, ec=INK, lw=1.2))
        start = end
    axes.set_title(title)
    return figure


def _clustered(cosines: pd.DataFrame) -> list[Any]:
    """The genes in the order of hierarchical clustering."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    values = cosines.to_numpy(dtype=float)
    if len(values) < 3:
        return list(cosines.index)
    distance = np.clip(1 - values, 0, 2)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    leaves = leaves_list(linkage(squareform(distance, checks=False), "average"))
    return list(cosines.index[leaves])


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    rows = [(row["step"], row[key]) for row in metrics if key in row]
    return [step for step, _ in rows], [value for _, value in rows]


def _log_log(axes: "Axes", ylabel: str) -> None:
    from matplotlib.ticker import ScalarFormatter

    axes.set(xscale="log", yscale="log", xlabel="step", ylabel=ylabel)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def blank_panels(count: int, width: float, height: float) -> tuple["Figure", list["Axes"]]:
    """A figure with `count` panels of `width` × `height` inches side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * count, height), layout="constrained", dpi=130)
    panels = [figure.add_subplot(1, count, i + 1) for i in range(count)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=FAINT, lw=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
    return figure, panels
