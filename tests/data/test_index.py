"""The index: round trips, selection, splits that never leak."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mae_jax.data.images import read_site
from mae_jax.data.index import Index
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.splits import with_split
from mae_jax.errors import InputError


def test_round_trip_and_a_moved_screen(screen: Callable[..., Path], tmp_path: Path) -> None:
    path = screen()
    index = read_loaddata(str(path))
    read = Index.read(index.write(path.with_name("index.parquet")))
    assert read.table.drop(columns=["Channels", "Images"]).equals(
        index.table.drop(columns=["Channels", "Images"])
    )
    assert read.sites == index.sites
    before = read_site(read, 5)
    moved = tmp_path / "elsewhere"
    shutil.move(path.parent, moved)
    assert np.array_equal(read_site(Index.read(moved / "index.parquet"), 5), before)


def test_select_and_wells(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(sites=2)))
    part = index.select(Experiment="E2", Metadata_Well=["A01", "A03"])
    assert len(part) == 2 * 2 * 2
    assert set(part.table["Metadata_Experiment"]) == {"E2"}
    wells = index.wells()
    assert len(wells) == 12
    assert wells["rows"].map(len).tolist() == [2] * 12
    assert sorted(row for rows in wells["rows"] for row in rows) == list(range(24))
    with pytest.raises(InputError, match="did you mean 'Metadata_Plate'"):
        index.select(Plat="0000")
    with pytest.raises(InputError, match="no site"):
        index.select(Plate="0099")


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Index.read(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="path of the index is empty"):
        Index.read("")
    (tmp_path / "junk.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="is no index or damaged"):
        Index.read(tmp_path / "junk.parquet")


def test_split_by_experiment_only(screen: Callable[..., Path]) -> None:
    table = read_loaddata(str(screen(experiments=5))).table
    named = with_split(table, experiments=["E2"])
    assert set(named.loc[named["Metadata_Split"] == "validation", "Metadata_Experiment"]) == {"E2"}
    for share in (0.01, 0.3, 0.99):
        drawn = with_split(table, fraction=share)
        sides = drawn.groupby("Metadata_Experiment")["Metadata_Split"].nunique()
        assert (sides == 1).all()  # no experiment on both sides
        assert set(drawn["Metadata_Split"]) == {"train", "validation"}
    # An experiment's side does not change when others are added.
    few = with_split(table[table["Metadata_Experiment"] != "E5"], fraction=0.5)
    all_of_them = with_split(table, fraction=0.5)
    common = all_of_them[all_of_them["Metadata_Experiment"] != "E5"]
    assert few["Metadata_Split"].tolist() == common["Metadata_Split"].tolist()


def test_split_refuses_to_leak(screen: Callable[..., Path]) -> None:
    table = read_loaddata(str(screen())).table
    with pytest.raises(InputError, match="did you mean 'E1'"):
        with_split(table, experiments=["E11"])
    with pytest.raises(InputError, match="would leak"):
        with_split(table, plates=["0000"])
    with pytest.raises(InputError, match="leave an experiment"):
        with_split(table, experiments=["E1", "E2"])
    one = table[table["Metadata_Experiment"] == "E1"]
    assert set(with_split(one, fraction=0.5)["Metadata_Split"]) == {"train"}
    by_plate = with_split(one, plates=["0001"])
    assert (by_plate["Metadata_Split"] == "validation").sum() == 3
