"""Plots of an evaluation draw what they are given."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.report.data_urls import inline_svg
from mae_jax.viz import evaluation_plots


def test_the_strip_marks_the_last_perturbation_that_passes():
    scores = np.array([0.1, 0.9, np.nan, 0.5, 0.7])
    q = np.array([0.5, 0.01, np.nan, 0.2, 0.03])
    figure = evaluation_plots.activity_strip(scores, q)
    (axes,) = figure.axes
    (line,) = axes.lines
    assert list(line.get_xdata()) == [2.5, 2.5]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["q ≥ 0.05: 2", "q < 0.05: 2"]
    assert not evaluation_plots.activity_strip(scores).axes[0].lines


def test_clusters_are_blocks_of_the_map():
    cosines = np.full((7, 7), -0.2)
    for block in ([0, 3, 5], [1, 2]):
        cosines[np.ix_(block, block)] = 0.8
    np.fill_diagonal(cosines, 1)
    order, clusters = evaluation_plots.hierarchical_clusters(cosines)
    assert sorted(order) == list(range(7))
    assert clusters[0] == clusters[3] == clusters[5]
    assert clusters[1] == clusters[2] != clusters[0]
    assert len(set(clusters)) == 4
    figure = evaluation_plots.similarity_map(cosines, order, clusters, list("abcdefg"))
    assert sorted(p.get_width() for p in figure.axes[0].patches) == [2, 3]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["abcdefg"[i] for i in order]
    assert list(evaluation_plots.hierarchical_clusters(np.ones((1, 1)))[0]) == [0]


def test_a_projection_colors_ten_labels_and_joins_the_others():
    labels = ["dmso"] * 5 + [f"t{i:02d}" for i in range(13)]
    points = np.arange(36, dtype=float).reshape(18, 2)
    figure = evaluation_plots.projection(points, labels, background={"dmso": "black"})
    shown = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert shown == ["3 others", "dmso", *[f"t{i:02d}" for i in range(10)]]


def test_scores_of_models_with_and_without_intervals():
    rows = pd.DataFrame(
        {
            "model": ["ours", "theirs", "absent"],
            "value": [0.5, 0.4, np.nan],
            "low": [0.45, np.nan, np.nan],
            "high": [0.55, np.nan, np.nan],
            "measured": [True, False, True],
        }
    )
    (axes,) = evaluation_plots.benchmark_scores(rows).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ours", "theirs"]
    assert len(axes.lines) == 3  # an interval and two points


@pytest.mark.parametrize("color", ["#22303c", "#d7dee5"])
def test_inline_figures_take_the_pages_ink(color):
    svg = inline_svg(evaluation_plots.activity_strip(np.array([0.2, 0.1])))
    assert svg.startswith("<svg ")
    assert color not in svg
    assert "var(--ink)" in svg
    assert "var(--line)" in svg
    assert " id=" not in svg.split("<defs>")[0]
