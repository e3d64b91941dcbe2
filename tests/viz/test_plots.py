"""Plots hold the numbers of their tables."""

import numpy as np
import pandas as pd

from mae_jax.viz import plots

GENES = ["G1", "G2", "G3", "G4"]


def cosines() -> pd.DataFrame:
    values = np.full((4, 4), -0.1)
    values[0, 2] = values[2, 0] = values[1, 3] = values[3, 1] = 0.9
    np.fill_diagonal(values, 1)
    return pd.DataFrame(values, index=GENES, columns=GENES)


def labels(axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_a_heat_map_is_ordered_by_groups_or_by_clusters() -> None:
    axes = plots.cosine_heatmap(cosines(), {"G2": "A", "G4": "A"}).axes[0]
    assert labels(axes) == ["G2", "G4", "G1", "G3"]
    assert len(axes.patches) == 1
    np.testing.assert_allclose(axes.images[0].get_array()[0, 1], 0.9)
    axes = plots.cosine_heatmap(cosines()).axes[0]
    assert {frozenset(labels(axes)[:2]), frozenset(labels(axes)[2:])} == {
        frozenset(("G1", "G3")),
        frozenset(("G2", "G4")),
    }
    assert len(axes.patches) == 0
    large = pd.DataFrame(np.eye(100))
    assert labels(plots.cosine_heatmap(large, {}).axes[0]) == []


def test_recall_against_percentile_has_a_panel_per_database() -> None:
    rows = [
        {"embeddings": name, "database": database, "percentile": p, "recall": p / 50 * factor}
        for name, factor in (("a", 1.0), ("b", 0.5))
        for database in ("CORUM", "StringDB")
        for p in (25, 5, 50)
    ]
    figure = plots.recall_against_percentile(pd.DataFrame(rows), ["b", "a"])
    assert [axes.get_title() for axes in figure.axes] == ["CORUM", "StringDB"]
    line = figure.axes[0].lines[0]
    assert line.get_label() == "b"
    np.testing.assert_allclose(line.get_xdata(), [10, 50, 100])
    np.testing.assert_allclose(line.get_ydata(), [0.05, 0.25, 0.5])


def test_bars_and_colors_agree() -> None:
    rows = [
        {"embeddings": name, "correction": c, "recall": r, "low": r - 0.1, "high": r + 0.1}
        for name, r in (("a", 0.4), ("b", 0.2))
        for c in ("none", "tvn")
    ]
    axes = plots.recall_bars(pd.DataFrame(rows), ["a", "b"], ["none", "tvn"]).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [0.4, 0.4, 0.2, 0.2])
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2


def test_loss_curves_leave_out_what_is_not_logged() -> None:
    metrics = [{"step": 1, "train/loss": 2.0}, {"step": 2, "validation/loss": 1.0}]
    axes = plots.loss_curves(metrics).axes[0]
    assert [line.get_label() for line in axes.lines] == ["training", "validation"]
    runs = {"x": metrics, "y": [{"step": 1, "train/mae": 3.0, "train/loss": 4.0}]}
    lines = plots.compare_losses(runs).axes[0].lines
    assert [line.get_ydata()[0] for line in lines] == [2.0, 3.0]


def test_flops_and_features() -> None:
    table = pd.DataFrame(
        {"embeddings": ["a", "b"], "database": "CORUM", "recall": [0.2, 0.4],
         "low": [0.1, 0.3], "high": [0.3, 0.5], "paper_flops": [1e18, 1e20]}
    )  # fmt: skip
    axes = plots.recall_against_flops(table).axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b"]
    r2 = pd.DataFrame({"category": ["Shape", "Texture"], "r2": [0.5, np.nan]})
    axes = plots.feature_r2({"model": r2}).axes[0]
    assert labels(axes) == ["Shape", "Texture"]
