"""The report's figures, each a function from tables to an SVG or PNG that stands in the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib.figure import Figure

# One color an encoder, kept through all figures; readable in print and to the color-blind.
PALETTE = ("#0b6e4f", "#c8553d", "#6c5b7b", "#8a8a8a", "#2f6690", "#b58900")
INK, FAINT = "#22303c", "#d7dee5"


def colors(names: Sequence[str]) -> dict[str, str]:
    """A color for every encoder, by its place in `names`."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def loss_curves(metrics: Sequence[dict[str, Any]]) -> str:
    """Training and validation loss against crops' steps, both axes logarithmic (as Fig. 3)."""
    figure, axes = _axes(5.6, 3.4)
    series = (
        ("train/loss", "training", "-", PALETTE[0]),
        ("validation/loss", "validation", "--", PALETTE[1]),
    )
    for key, label, style, color in series:
        rows = [(row["step"], row[key]) for row in metrics if key in row]
        if rows:
            steps, losses = zip(*rows, strict=True)
            marker = "o" if len(rows) < 30 else None
            axes.plot(steps, losses, style, color=color, label=label, marker=marker, ms=3)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="loss (Eq. 3)")
    axes.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.yaxis.set_minor_formatter(matplotlib.ticker.ScalarFormatter())
    axes.legend(frameon=False)
    return _svg(figure)


def saddle(runs: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """The reconstruction loss (Eq. 1) of several runs, both axes logarithmic (Fig. 3).

    Runs with and without the Fourier term compare by this part alone, since their sums differ. A
    flat stretch after the first fall is the saddle; a second fall leads out of it.
    """
    figure, axes = _axes(5.6, 3.4)
    for (name, metrics), color in zip(runs.items(), PALETTE, strict=False):
        key = "train/mae" if any("train/mae" in row for row in metrics) else "train/loss"
        rows = [(row["step"], row[key]) for row in metrics if key in row]
        if rows:
            steps, losses = zip(*rows, strict=True)
            axes.plot(steps, losses, color=color, label=name)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="reconstruction loss (Eq. 1)")
    axes.yaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
    axes.yaxis.set_minor_formatter(matplotlib.ticker.ScalarFormatter())
    axes.legend(frameon=False)
    return _svg(figure)


def recall_against_percentile(sweep: pd.DataFrame, correction: str, names: Sequence[str]) -> str:
    """Recall in the top and bottom tails against the tails' total share (as Fig. 5, right)."""
    figure, axes = _axes(5.6, 3.4)
    part = sweep[sweep["correction"] == correction]
    for name, color in colors(names).items():
        rows = part[part["embeddings"] == name].sort_values("percentile")
        axes.plot(2 * rows["percentile"], rows["recall"], color=color, label=name)
    axes.plot([0, 100], [0, 1], ":", color=INK, lw=1, label="by chance")
    axes.set(
        xlabel="share of all pairs in the two tails (%)",
        ylabel="recall of known pairs",
        xlim=(0, 100),
        ylim=(0, 1),
    )
    axes.axvline(10, color=FAINT, lw=1, zorder=0)
    axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


def cosine_map(cosines: pd.DataFrame, groups: dict[str, str]) -> str:
    """Heat map of gene × gene cosines; genes of one complex stand together, boxed."""
    order = sorted(cosines.index, key=lambda gene: (groups.get(gene, "~"), gene))
    values = cosines.loc[order, order].to_numpy()
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    if len(order) <= 80:
        size = 7 if len(order) <= 50 else 5
        axes.set_xticks(range(len(order)), order, rotation=90, fontsize=size)
        axes.set_yticks(range(len(order)), order, fontsize=size)
    begin = 0
    while begin < len(order):
        group = groups.get(order[begin])
        end = begin + 1
        while end < len(order) and group is not None and groups.get(order[end]) == group:
            end += 1
        if end - begin > 1:
            corner, side = (begin - 0.5, begin - 0.5), end - begin
            axes.add_patch(
                matplotlib.patches.Rectangle(corner, side, side, fill=False, ec=INK, lw=1.2)
            )
        begin = end
    figure.colorbar(image, ax=axes, shrink=0.7, label="cosine")
    return _svg(figure)


def picture(path: Path) -> str:
    """A PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=FAINT, lw=0.5)
    axes.tick_params(colors=INK)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure as an SVG data URL, with letters as letters where the reader has a sans serif."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mae_jax"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def recall_bars(recall: pd.DataFrame, names: Sequence[str], corrections: Sequence[str]) -> str:
    """Recall with its interval for each correction and encoder, with the chance line at 0.10."""
    figure, axes = _axes(9.2, 3.6)
    width = 0.8 / len(names)
    for i, (name, color) in enumerate(colors(names).items()):
        rows = recall[recall["embeddings"] == name].set_index("correction").loc[list(corrections)]
        at = np.arange(len(corrections)) + (i - (len(names) - 1) / 2) * width
        axes.bar(at, rows["recall"], width, color=color, label=name)
        spread = [rows["recall"] - rows["low"], rows["high"] - rows["recall"]]
        axes.errorbar(at, rows["recall"], np.clip(spread, 0, None), fmt="none", ecolor=INK, lw=0.8)
    axes.axhline(0.1, ls=":", color=INK, lw=1)
    axes.set_xticks(range(len(corrections)), [c.replace("_", " ") for c in corrections])
    axes.tick_params(axis="x", labelsize=8, rotation=20)
    axes.set(ylabel="recall", ylim=(0, 1))
    axes.legend(frameon=False, ncols=len(names), fontsize=9)
    return _svg(figure)
