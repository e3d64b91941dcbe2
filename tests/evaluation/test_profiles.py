"""Profiles: reading every format, writing, selecting, and refusing what is broken."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import ColumnSchema, Profiles


def same(a: Profiles, b: Profiles) -> None:
    assert a.names == b.names
    np.testing.assert_array_equal(a.features, b.features)
    assert a.metadata.columns.tolist() == b.metadata.columns.tolist()
    assert (a.metadata.to_numpy() == b.metadata.to_numpy()).all()


def test_parquet_round_trip(screen: Profiles, tmp_path: Path) -> None:
    same(Profiles.read(screen.write(tmp_path / "p.parquet")), screen)


def test_a_folder_of_parquet_files(screen: Profiles, tmp_path: Path) -> None:
    for part, rows in enumerate(np.array_split(np.arange(len(screen)), 3)):
        screen.take(rows).write(tmp_path / "profiles" / f"{part:05d}.parquet")
    same(Profiles.read(tmp_path / "profiles"), screen)


def test_csv_gz_keeps_digits_of_plates(screen: Profiles, tmp_path: Path) -> None:
    metadata = screen.metadata.assign(Metadata_Plate="0012")
    frame = pd.concat([metadata, pd.DataFrame(screen.features, columns=screen.names)], axis=1)
    frame.loc[0, "Metadata_Gene"] = None
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        frame.to_csv(file, index=False)
    got = Profiles.read(tmp_path / "p.csv.gz")
    assert (got.metadata["Metadata_Plate"] == "0012").all()
    assert got.metadata["Metadata_Gene"].iloc[0] == ""
    np.testing.assert_allclose(got.features, screen.features, rtol=1e-6)


def test_metadata_in_a_second_file(screen: Profiles, tmp_path: Path) -> None:
    pd.DataFrame(screen.features, columns=screen.names).to_parquet(tmp_path / "x.parquet")
    beside = screen.metadata.rename(columns=lambda c: c.removeprefix("Metadata_"))
    beside.to_csv(tmp_path / "meta.csv", index=False)
    same(Profiles.read(tmp_path / "x.parquet", tmp_path / "meta.csv"), screen)
    with pytest.raises(InputError, match="no metadata column"):
        Profiles.read(tmp_path / "x.parquet")
    beside.iloc[:-1].to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(InputError, match="359 rows"):
        Profiles.read(tmp_path / "x.parquet", tmp_path / "short.csv")


def test_select_and_blocks(screen: Profiles) -> None:
    some = screen.select(Experiment="E1", Gene=["G000", "G001"])
    assert len(some) == 4
    assert set(some.metadata["Metadata_Gene"]) == {"G000", "G001"}
    blocks = list(screen.blocks(100))
    assert [len(b) for b in blocks] == [100, 100, 100, 60]
    np.testing.assert_array_equal(np.concatenate([b.features for b in blocks]), screen.features)
    with pytest.raises(
        InputError, match="no column 'Metadata_Genes': did you mean 'Metadata_Gene'"
    ):
        screen.select(Genes="G000")


def test_not_a_number_is_named_or_dropped(screen: Profiles) -> None:
    screen.features[7, 3] = np.nan
    screen.features[9, 5] = np.inf
    with pytest.raises(InputError, match=r"P0 A08 has NaN or infinity in feature Image_MAE_0003"):
        screen.checked()
    assert len(screen.checked(nan="rows")) == len(screen) - 2
    assert screen.checked(nan="features").width == 10


def test_duplicate_wells(screen: Profiles) -> None:
    twice = screen.take(np.r_[np.arange(len(screen)), 5])
    with pytest.raises(InputError, match="well E0 P0 A06 comes more than once"):
        twice.checked()
    same(twice.checked(duplicates="first"), screen)
    assert screen.checked() is screen


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda f: f / "absent.parquet", "does not exist"),
        (lambda f: f, "has no Parquet file"),
        (lambda f: _write(f / "a.txt", "x"), "is no profiles file"),
        (lambda f: _write(f / "a.parquet", "x"), "not readable as parquet"),
        (lambda f: _write(f / "a.csv", "Metadata_Well,b\nA01,x\n"), "no numeric feature"),
        (lambda f: _write(f / "a.csv", ""), "not readable as a table"),
        (lambda f: _write(f / "a.h5ad", "x"), "not readable as .h5ad"),
    ],
)
def test_files_that_are_no_profiles(tmp_path: Path, make, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Profiles.read(make(tmp_path))


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_controls(screen: Profiles) -> None:
    assert screen.controls().sum() == 120
    assert screen.controls("Metadata_Gene=G000|G001").sum() == 12
    with pytest.raises(InputError, match="COLUMN=VALUE"):
        screen.controls("negcon")
    with pytest.raises(InputError, match="no row is a negative control"):
        screen.controls("Metadata_ControlType=poscon")


def test_plates_are_known_by_their_experiment(screen: Profiles) -> None:
    assert sorted(set(screen.batches("plate")))[:2] == ["E0/P0", "E0/P1"]
    alone = screen.batches("plate", ColumnSchema(experiment="Metadata_None"))
    assert sorted(set(alone)) == ["P0", "P1"]
    assert sorted(set(screen.batches("Metadata_Gene")))[1] == "G000"


def test_real_profiles(shared_data: Path) -> None:
    l1000 = Profiles.read(shared_data / "profiles" / "taoe_l1000_u2os_orf_1092x978.parquet")
    assert l1000.features.shape == (1092, 978)
    assert l1000.controls("Metadata_pert_type=ctl_vector").sum() == 72
    plate = Profiles.read(shared_data / "profiles" / "SQ00015054_normalized_feature_select.csv.gz")
    assert len(plate) == 384
    assert plate.controls("Metadata_broad_sample=DMSO").sum() == 24
    assert plate.checked().width == 454
    assert plate.metadata["Metadata_pert_id"].iloc[0] == ""  # missing there


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_anndata_files(kind: str) -> None:
    """Two small files that anndata itself wrote."""
    got = Profiles.read(Path(__file__).parent / f"{kind}.h5ad")
    np.testing.assert_array_equal(got.features, [[1, 2], [0, 4], [5, 0.5]])
    assert got.names == ("Image_MAE_0000", "Image_MAE_0001")
    assert got.metadata.to_dict("list") == {
        "Metadata_Plate": ["P1", "P1", "P2"],
        "Metadata_Well": ["A01", "A02", "A01"],
        "Metadata_Gene": ["TP53", "", "MDM2"],
        "Metadata_count": ["3", "4", "5"],
    }
