"""Counts of cells as a baseline; published scores as data."""

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.benchmarks import (
    BENCHMARKS,
)
from mae_jax.evaluation.benchmarks.cell_counts import (
    count_profiles,
    is_count,
    on_arc,
    read_counts,
)
from mae_jax.evaluation.benchmarks.published import published_rows


def test_counts_are_found_and_ranked_by_their_difference():
    for name in ("Nuclei_Number_Object_Number", "Count_Cells", "cell_count", "Count", "n_cells"):
        assert is_count(name)
    for name in ("Cells_Neighbors_NumberOfNeighbors_10", "Nuclei_Children_Cells_Count", "Account"):
        assert not is_count(name)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3000, 40).astype(float)
    for span, similarity in ((np.pi, lambda c: c), (np.pi / 2, np.abs)):
        points = on_arc(values, span).astype(np.float64)
        order = np.argsort(-similarity(points @ points[0]), kind="stable")
        difference = np.abs(values - values[0])
        assert (np.diff(difference[order]) >= 0).all()


def test_counts_of_metadata_and_of_files(tmp_path):
    metadata = pd.DataFrame({"Metadata_Plate": ["P", "P"], "Metadata_Count_Cells": ["12", "7"]})
    table = Profiles(metadata, np.zeros((2, 1), np.float32), ("x",))
    counts = count_profiles(table)
    assert counts is not None
    assert counts.features.tolist() == [[12.0], [7.0]]
    assert count_profiles(table.take(np.array([0]))).features.tolist() == [[12.0]]
    none = Profiles(metadata[["Metadata_Plate"]], np.zeros((2, 1), np.float32), ("x",))
    assert count_profiles(none) is None
    pd.DataFrame({"plate": ["P"], "x": [1]}).to_csv(tmp_path / "no.csv", index=False)
    with pytest.raises(InputError, match="has no column of cell counts"):
        read_counts(tmp_path / "no.csv")
    with pytest.raises(InputError, match="does not exist"):
        read_counts(tmp_path / "absent.csv")


@pytest.mark.parametrize("name", ["jump-lite", "bbbc021", "rxrx3-core"])
def test_published_rows_name_their_source(name):
    rows = published_rows(name)
    assert len(rows)
    assert (rows["source"].str.len() > 10).all()
    given = rows.dropna(subset=["low"])
    assert ((given["low"] <= given["value"]) & (given["value"] <= given["high"])).all()
    assert set(BENCHMARKS) == {"jump-lite", "cpjump1", "bbbc021", "rxrx3-core", "rxrx3"}
