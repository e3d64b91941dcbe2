"""Plots of a fine-tuning: its curves and its confusion matrix."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mae_jax.viz.plots import FAINT, INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_NAMES = 60  # classes whose names fit an axis


def learning_curves(history: pd.DataFrame, score: str) -> "Figure":
    """Losses, and the score of the validation wells, against the step.

    Args:
      history: step, train_loss, validation_loss, validation_score; `stage` where there are several.
      score: the name of the score.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = list(map(str, history["stage"].unique())) if "stage" in history else [""]
    for stage, color in zip(names, PALETTE, strict=False):
        rows = history[history["stage"] == stage] if stage else history
        steps = rows["step"]
        left.plot(steps, rows["train_loss"], color=color, alpha=0.5, label=f"{stage} training")
        left.plot(steps, rows["validation_loss"], "--", color=color, label=f"{stage} validation")
        right.plot(steps, rows["validation_score"], color=color, label=stage)
        best = int(rows["validation_loss"].to_numpy().argmin())
        right.axvline(steps.iloc[best], color=FAINT, lw=1, zorder=0)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel=f"{score.replace('_', ' ')} of validation wells")
    left.legend(frameon=False, fontsize=8)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrix(counts: pd.DataFrame) -> "Figure":
    """The share of each class's wells (rows) by predicted class (columns).

    Args:
      counts: numbers of wells, classes as index and columns.
    """
    from matplotlib.figure import Figure

    names, number = list(map(str, counts.index)), len(counts)
    side = min(12.0, 2.5 + 0.28 * number)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    values = counts.to_numpy(float)
    totals = values.sum(axis=1, keepdims=True)
    shares = np.divide(values, totals, out=np.full_like(values, np.nan), where=totals > 0)
    image = axes.imshow(shares, cmap="Greens", vmin=0, vmax=1)
    if number <= _MAX_NAMES:
        size = 8 if number <= 30 else 6
        axes.set_xticks(range(number), names, rotation=90, fontsize=size)
        axes.set_yticks(range(number), names, fontsize=size)
    if number <= 20:
        for row in range(number):
            for column in range(number):
                if values[row, column]:
                    color = "white" if shares[row, column] > 0.6 else INK
                    axes.text(column, row, f"{values[row, column]:.0f}", ha="center", va="center",
                              color=color, fontsize=7)  # fmt: skip
    axes.set(xlabel="predicted class", ylabel="class")
    figure.colorbar(image, ax=axes, label="share of the class's wells", shrink=0.8)
    return figure
