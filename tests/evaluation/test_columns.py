"""Which columns become features, and that nothing vanishes in silence."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mae_jax.cli.main import main
from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles
from mae_jax.evaluation.columns import ReadOptions, column_roles
from mae_jax.evaluation.table_formats import arrow_block


@pytest.fixture
def frame() -> pd.DataFrame:
    """A table as people have them: no prefix, and numbers that are no features."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "well_id": [f"w{i}" for i in range(6)],
            "Plate": [7, 7, 7, 8, 8, 8],
            "dose_uM": [0.1, 1.0, 10.0] * 2,
            "Metadata_Gene": list("abcabc"),
            "f_0": rng.standard_normal(6),
            "f_1": rng.standard_normal(6),
            "Cells_Number": [1, 2, 3, 4, 5, 6],
        }
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_plate_number_is_no_feature(frame: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    notes: list[str] = []
    profiles = Profiles.read(path, notes=notes.append)
    assert profiles.names == ("f_0", "f_1", "Cells_Number")
    assert profiles.metadata["Metadata_Plate"].tolist() == list("777888")
    assert profiles.metadata["Metadata_well_id"].tolist() == frame["well_id"].tolist()
    assert len(notes) == 1
    assert "3 features (f_0 … Cells_Number), 4 metadata columns" in notes[0]
    assert "taken as metadata, with the prefix Metadata_: well_id, Plate, dose_uM" in notes[0]


def test_features_by_pattern(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame.to_csv(tmp_path / "a.csv", index=False)
    notes: list[str] = []
    options = ReadOptions(feature_columns=["f_*"])
    profiles = Profiles.read(tmp_path / "a.csv", options=options, notes=notes.append)
    assert profiles.names == ("f_0", "f_1")
    assert "left out: Cells_Number" in notes[0]
    with pytest.raises(InputError, match=r"a.csv has no numeric column that matches 'g_\*'"):
        Profiles.read(tmp_path / "a.csv", options=ReadOptions(feature_columns=["g_*"]))


def test_the_prefixed_column_wins(tmp_path: Path) -> None:
    columns = {"Metadata_Plate": "text", "Plate": "number", "x": "number", "nested": "other"}
    roles = column_roles(columns, tmp_path, ReadOptions())
    assert roles.features == ["x"]
    assert roles.metadata == {"Metadata_Plate": "Metadata_Plate"}
    assert roles.left_out == ["Plate", "nested"]


def test_metadata_joined_by_a_key(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame[["well_id", "f_0", "f_1"]].to_parquet(tmp_path / "x.parquet")
    second = frame[["well_id", "Metadata_Gene"]].iloc[::-1]
    second.to_csv(tmp_path / "m.csv", index=False)
    options = ReadOptions(metadata=tmp_path / "m.csv", key=["well_id"])
    profiles = Profiles.read(tmp_path / "x.parquet", options=options)
    assert profiles.metadata["Metadata_Gene"].tolist() == list("abcabc")
    second.iloc[1:].to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(InputError, match=r"m.csv lacks w5, which .*x.parquet has \(1 such"):
        Profiles.read(tmp_path / "x.parquet", options=options)
    pd.concat([second, second]).to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(InputError, match="more than once; Metadata_well_id is no key"):
        Profiles.read(tmp_path / "x.parquet", options=options)
    wrong = ReadOptions(metadata=tmp_path / "m.csv", key=["wel_id"])
    with pytest.raises(InputError, match="has no column 'Metadata_wel_id': did you mean"):
        Profiles.read(tmp_path / "x.parquet", options=wrong)


class Counting:
    """A record batch that only gives columns by number, which does not search all names."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch, self.schema, self.num_rows = batch, batch.schema, batch.num_rows

    def column(self, number: Any) -> pa.Array:
        assert isinstance(number, int)
        return self.batch.column(number)


def test_columns_are_taken_by_number(frame: pd.DataFrame, tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pandas(frame[["Metadata_Gene", "f_0", "f_1"]])
    columns = {"Metadata_Gene": "text", "f_0": "number", "f_1": "number"}
    roles = column_roles(columns, tmp_path, ReadOptions())
    table = arrow_block(Counting(batch), roles)
    np.testing.assert_allclose(table.features, frame[["f_0", "f_1"]].to_numpy(), rtol=1e-6)


def test_an_array_with_its_metadata(screen: Profiles, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", screen.features)
    screen.metadata.to_csv(tmp_path / "m.csv", index=False)
    profiles = Profiles.read(tmp_path / "x.npy", tmp_path / "m.csv")
    np.testing.assert_array_equal(profiles.features, screen.features)
    assert profiles.controls().sum() == 120
    with pytest.raises(InputError, match="give their metadata with --metadata"):
        Profiles.read(tmp_path / "x.npy")


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".tsv", ".h5ad"])
def test_written_as_the_ending_says(screen: Profiles, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    screen.write(path)
    profiles = Profiles.read(path)
    np.testing.assert_allclose(profiles.features, screen.features, rtol=1e-6)
    assert profiles.names == screen.names
    pd.testing.assert_frame_equal(profiles.metadata, screen.metadata.astype("str"))
    start = path.read_bytes()[:4]
    assert (start == b"PAR1") == (ending == ".parquet")
    assert (start == b"\x89HDF") == (ending == ".h5ad")


def test_correct_refuses_an_unknown_ending_at_once(
    screen: Profiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen.write(tmp_path / "a.parquet")
    command = ["correct", "--embeddings", str(tmp_path / "a.parquet"), "--out"]
    assert main([*command, str(tmp_path / "b.xlsx")]) == 2
    assert "b.xlsx has no known ending" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b.h5ad"), "--stream"]) == 2
    assert "must end in .parquet" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b.h5ad")]) == 0
    with h5py.File(tmp_path / "b.h5ad") as file:
        assert file["X"].shape == screen.features.shape


def test_obsm_and_zarr(screen: Profiles, tmp_path: Path) -> None:
    import zarr

    screen.write(tmp_path / "a.h5ad")
    scores = np.arange(720, dtype=np.float64).reshape(360, 2)
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["obsm/X_pca"] = scores
    options = ReadOptions(obsm="X_pca")
    profiles = Profiles.read(tmp_path / "a.h5ad", options=options)
    np.testing.assert_array_equal(profiles.features, scores)
    assert profiles.names == ("X_pca_0000", "X_pca_0001")
    with pytest.raises(InputError, match="no obsm matrix 'X_umap'; it has: X_pca"):
        Profiles.read(tmp_path / "a.h5ad", options=ReadOptions(obsm="X_umap"))
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.create_array("X", data=screen.features)
    for group, columns in {
        "obs": {c: screen.metadata[c].tolist() for c in screen.metadata},
        "var": {"_index": list(screen.names)},
    }.items():
        made = root.create_group(group)
        made.attrs["column-order"] = [c for c in columns if c != "_index"]
        for name, values in columns.items():
            array = made.create_array(name, shape=(len(values),), dtype=str)
            array[...] = np.asarray(values, dtype=object)
    profiles = Profiles.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(profiles.features, screen.features)
    assert profiles.names == screen.names
    pd.testing.assert_frame_equal(profiles.metadata, screen.metadata.astype("str"))
