"""Tables of plates, which open as they are, and exports by their ending."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.embeddings import read_embeddings
from mae_jax.embeddings.manifest import Manifest
from mae_jax.embeddings.number_columns import typed_frame
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.plate_tables import plate_names, write_plate_tables
from mae_jax.embeddings.shards import WELL_COLUMNS, ShardFiles, ShardRun, feature_names
from mae_jax.embeddings.table_files import export_embeddings, split_ending, write_table
from mae_jax.errors import InputError
from mae_jax.evaluation import Profiles

# Metadata columns and their values, by well.
COLUMNS = (*WELL_COLUMNS, "Metadata_Dose", "Metadata_Row", "Metadata_Code", "Metadata_Gene")
DOSES = ("10", "2.5", "", "1e-3", "0")
FEATURES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five wells of two plates, three in the first shard."""
    job = {"encoder": "tiny", "outputs": [], "wells_per_shard": 3, "index": "0", "channels": None,
           "fingerprint": "f"}  # fmt: skip
    counts = {"wells": 5, "sites": 5, "shards": 2, "complete": True}
    manifest = Manifest(job, counts=counts)
    store = OutputStore(tmp_path / "out")
    store.write(manifest.name, manifest.encode())
    files = ShardFiles(store, manifest)
    plates = ("0012", "0012", "7", "7", "7")
    rows = [("s", "E", plates[i], f"A0{i}", DOSES[i], str(i), f"00{i}", f"G{i}") for i in range(5)]
    for shard, part in enumerate((slice(0, 3), slice(3, 5))):
        files.write(
            shard,
            run=ShardRun(len(rows[part]), 0, 1, {}),
            columns=COLUMNS,
            metadata=rows[part],
            features=FEATURES[part],
            names=feature_names(4, ("DNA", "ER stain")),
        )
    assert write_plate_tables(files) == ["0012.parquet", "7.parquet"]
    store.write("_skipped.csv", b"what no reader of Parquet takes for a table")
    return tmp_path / "out"


def test_pandas_reads_the_folder(folder):
    table = pd.read_parquet(folder)
    assert list(table["Metadata_Plate"]) == ["0012", "0012", "7", "7", "7"]
    names = [f"Image_MAE_{channel}_000{i}" for channel in ("DNA", "ER-stain") for i in (0, 1)]
    np.testing.assert_array_equal(table[names], FEATURES)
    assert list(pd.read_parquet(folder / "7.parquet")["Metadata_Well"]) == ["A02", "A03", "A04"]


def test_numbers_are_numbers_and_names_are_names(folder):
    table = pd.read_parquet(folder)
    assert table["Metadata_Row"].dtype == np.int64
    np.testing.assert_array_equal(table["Metadata_Dose"], [10, 2.5, np.nan, 1e-3, 0])
    assert list(table["Metadata_Code"]) == ["000", "001", "002", "003", "004"]
    assert table["Metadata_Dose"].dtype == np.float64


@pytest.mark.parametrize("name", ["x.h5ad", "x.zarr", "x.csv", "x.csv.gz", "x.tsv", "x.parquet"])
def test_one_file_by_its_ending(folder, name):
    path = folder.parent / name
    assert split_ending(str(path)) == (str(folder.parent / "x"), str(path))
    assert export_embeddings(folder, path) == path
    profiles, (metadata, features, names) = Profiles.read(path), read_embeddings(folder)
    np.testing.assert_allclose(profiles.features, features, rtol=1e-6)
    assert list(profiles.names) == names
    assert list(profiles.metadata["Metadata_Plate"]) == list(metadata["Metadata_Plate"])
    assert list(profiles.metadata["Metadata_Row"]) == list(metadata["Metadata_Row"])
    doses = [float(text) if text else np.nan for text in profiles.metadata["Metadata_Dose"]]
    np.testing.assert_array_equal(doses, [10, 2.5, np.nan, 1e-3, 0])


def test_a_folder_has_no_ending():
    assert split_ending("s3://bucket/mine.v2") == ("s3://bucket/mine.v2", None)
    with pytest.raises(InputError, match="has no known ending"):
        write_table("x.xlsx", pd.DataFrame(index=[0]), np.zeros((1, 1), np.float32), ["f"])
    with pytest.raises(InputError, match="is a URL"):
        export_embeddings("s3://bucket/mine", "s3://bucket/mine.csv")


def test_names_of_plates_tell_them_apart():
    same = [("s", "E1", "P 1"), ("s", "E2", "P 1"), ("s", "E1", "_P")]
    assert list(plate_names(same).values()) == [
        "E1__P-1.parquet", "E2__P-1.parquet", "E1___P.parquet",
    ]  # fmt: skip
    assert plate_names([("s", "E", "_P")]) == {("s", "E", "_P"): "P.parquet"}
    assert plate_names([("s", "E", "")]) == {("s", "E", ""): "plate.parquet"}
    twins = plate_names([("s", "E", "a b"), ("s", "E", "a/b")])
    assert list(twins.values()) == ["a-b.parquet", "a-b~2.parquet"]


def test_names_of_features_by_channel():
    assert feature_names(4, ("DNA", "DNA ")) == [
        "Image_MAE_DNA_0000", "Image_MAE_DNA_0001", "Image_MAE_DNA _0000", "Image_MAE_DNA _0001",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "kind"),
    [(["1", "", "-2"], "f"), (["1", "2"], "i"), (["1.50"], "f"), (["1", "x"], "O"), (["01"], "O"),
     (["", ""], "O"), (["nan"], "O"), (["1" * 19], "f"), (["+1"], "O")],
)  # fmt: skip
def test_what_counts_as_a_number(texts, kind):
    frame = typed_frame(pd.DataFrame({"Metadata_X": texts, "Metadata_Plate": ["1"] * len(texts)}))
    found = frame["Metadata_X"].dtype
    assert (found.kind if found.kind in "if" else "O") == kind
    assert list(frame["Metadata_Plate"]) == ["1"] * len(texts)
