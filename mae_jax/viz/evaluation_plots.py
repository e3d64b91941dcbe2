"""Plots of an evaluation: activity of perturbations, similarity map, projections, scores of models.

Each figure is about 4 inches wide, so that its text can be read on a phone; a page puts several
side by side.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mae_jax.viz.plots import FAINT, PALETTE, blank_panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FRAME = "#111111"  # on the white middle of a map, also in dark pages
SOFT = "#8795a3"  # what is in the background, in light and in dark
_MANY_COLORS = (
    "#0b6e4f", "#c8553d", "#6c5b7b", "#2f6690", "#b58900", "#3aa6a0", "#9a6bd0", "#7a8f2e",
    "#8c5a2b", "#5a6fd0",
)  # fmt: skip


def activity_strip(
    scores: Float[np.ndarray, " perturbations"],
    q: Float[np.ndarray, " perturbations"] | None = None,
    *,
    threshold: float = 0.05,
    ylabel: str = "score",
) -> "Figure":
    """Every perturbation's score, highest first; those with q below the threshold are colored.

    Args:
      scores: one per perturbation; NaN are left out.
      q: adjusted p-values; None: none were computed.
      threshold: of q.
      ylabel: the score's name.
    """
    shown = np.flatnonzero(~np.isnan(scores))
    order = shown[np.argsort(-scores[shown], kind="stable")]
    values = scores[order]
    figure, (axes,) = blank_panels(1, 4.2, 2.7)
    rank = np.arange(1, len(values) + 1)
    if q is None:
        axes.scatter(rank, values, s=7, color=PALETTE[4], linewidths=0)
    else:
        active = q[order] < threshold
        axes.scatter(rank[~active], values[~active], s=6, color=SOFT, linewidths=0,
                     label=f"q ≥ {threshold:g}: {int((~active).sum()):,}")  # fmt: skip
        axes.scatter(rank[active], values[active], s=8, color=PALETTE[0], linewidths=0,
                     label=f"q < {threshold:g}: {int(active.sum()):,}")  # fmt: skip
        if active.any():  # the last rank that passes
            last = int(rank[active].max())
            axes.axvline(last + 0.5, ls="--", lw=1, color=PALETTE[1])
            axes.annotate(
                f"q = {threshold:g}", (last + 0.5, 1), (3, -2), xycoords=("data", "axes fraction"),
                textcoords="offset points", fontsize=8, color=PALETTE[1], va="top",
            )  # fmt: skip
        axes.legend(frameon=False, fontsize=8, loc="best", markerscale=2)
    axes.set(xlabel="perturbation, by score", ylabel=ylabel)
    axes.set_xlim(0, max(len(values), 1) * 1.12 + 1)
    return figure


def hierarchical_clusters(
    cosines: Float[np.ndarray, "rows rows"], similarity: float = 0.4
) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
    """Average linkage on 1 − cosine.

    Args:
      cosines: symmetric.
      similarity: two clusters are joined while the mean cosine between them is at least this.

    Returns:
      The order of the leaves, and the cluster of every row (numbered from 1).
    """
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(cosines) < 2:
        return np.arange(len(cosines)), np.ones(len(cosines), np.int64)
    distance = np.clip(1 - (cosines + cosines.T) / 2, 0, 2)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average")
    clusters = fcluster(tree, 1 - similarity, "distance")
    return np.asarray(leaves_list(tree), np.int64), np.asarray(clusters, np.int64)


def similarity_map(
    cosines: Float[np.ndarray, "rows rows"],
    order: Int[np.ndarray, " rows"],
    clusters: Int[np.ndarray, " rows"],
    labels: Sequence[str] = (),
) -> "Figure":
    """Cosines between perturbations in the order of their clusters, which are framed.

    Args:
      cosines, order, clusters: see `hierarchical_clusters`; only clusters of two or more are
        framed.
      labels: one per row, written if there are at most 40.
    """
    from matplotlib.patches import Rectangle

    figure, (axes,) = blank_panels(1, 4.2, 3.7)
    axes.grid(False)
    image = axes.imshow(
        cosines[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, shrink=0.8, label="cosine")
    ordered = clusters[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        if end - start > 1:
            side = int(end - start)
            corner = (float(start) - 0.5, float(start) - 0.5)
            axes.add_patch(Rectangle(corner, side, side, fill=False, ec=_FRAME, lw=1))
    if 0 < len(labels) <= 40:
        names = [labels[i] for i in order]
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axes.set_yticks(range(len(names)), names, fontsize=6)
    else:
        axes.set_xlabel(f"{len(order):,} perturbations, by cluster")
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def projection(
    coordinates: Float[np.ndarray, "wells 2"],
    labels: Sequence[str],
    title: str = "",
    background: Mapping[str, str] | None = None,
) -> "Figure":
    """Wells in two dimensions, colored by label.

    Args:
      coordinates: of every well.
      labels: of every well. The ten most frequent get a color, the others are one group.
      title: above the plot.
      background: label -> color of labels that are drawn below the others, such as controls.
    """
    background = dict(background or {})
    names = pd.Series(list(labels))
    counts = names[~names.isin(list(background))].value_counts()
    top = sorted(counts.index[: len(_MANY_COLORS)])
    figure, (axes,) = blank_panels(1, 4.0, 3.7)
    axes.grid(False)
    axes.set(xticks=[], yticks=[], title=title)
    rest = ~names.isin([*top, *background])
    groups = [(label, color, names == label) for label, color in background.items()]
    if rest.any():
        groups.insert(0, (f"{names[rest].nunique():,} others", FAINT, rest))
    groups += [(n, c, names == n) for n, c in zip(top, _MANY_COLORS, strict=False)]
    size = float(np.clip(6000 / max(len(names), 1), 3, 22))
    for label, color, rows in groups:
        at = coordinates[rows.to_numpy()]
        if len(at):
            axes.scatter(at[:, 0], at[:, 1], s=size, color=color, linewidths=0, alpha=0.85,
                         label=_short(label), rasterized=True)  # fmt: skip
    shown = axes.get_legend_handles_labels()[1]
    columns = 3 if max(map(len, shown), default=0) <= 14 else 2
    axes.legend(
        frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns,
        handletextpad=0.1, columnspacing=0.8, markerscale=max(1.0, 4 / size**0.5),
    )  # fmt: skip
    return figure


def benchmark_scores(rows: pd.DataFrame) -> "Figure":
    """Scores of models on one metric with intervals; measured ones filled, published ones hollow.

    Args:
      rows: model, value, low, high (NaN: none was given), measured (bool); from top to bottom.
    """
    rows = rows.dropna(subset=["value"]).reset_index(drop=True)
    figure, (axes,) = blank_panels(1, 4.4, 0.9 + 0.22 * max(len(rows), 1))
    for at, row in enumerate(rows.to_dict("records")):
        color = PALETTE[0] if row["measured"] else SOFT
        if row["low"] == row["low"]:
            axes.plot([row["low"], row["high"]], [at, at], color=color, lw=1.4)
        face = color if row["measured"] else "none"
        axes.plot([row["value"]], [at], "o", ms=5, mec=color, mfc=face, mew=1.3)
    axes.set_yticks(range(len(rows)), [_short(str(m), 34) for m in rows["model"]], fontsize=7.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    return figure


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
