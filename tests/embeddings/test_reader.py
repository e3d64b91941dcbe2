"""The reader refuses what is incomplete, mixed or altered, each in one sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest

from mae_jax.embeddings import EmbeddingsReader, is_embeddings_folder, read_embeddings
from mae_jax.embeddings.anndata import write_anndata
from mae_jax.errors import InputError


def folder_of(files) -> Path:
    return Path(str(files.store))


def test_all_wells_in_the_order_of_the_job(make_folder) -> None:
    folder = folder_of(make_folder())
    metadata, features, names = read_embeddings(folder)
    assert list(metadata["Metadata_Well"]) == [f"A{well + 1:02d}" for well in range(10)]
    assert features.shape == (10, 6)
    assert features.dtype == np.float32
    assert names[0] == "Image_MAE_0000"
    blocks = list(EmbeddingsReader(folder).blocks())
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), features)
    assert pd.read_parquet(folder / "_shards").shape == (10, 10)  # other programs read it as well


def test_a_missing_shard_is_named(make_folder) -> None:
    folder = folder_of(make_folder())
    (folder / "_shards" / "shard-000001.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of its 3 shards.*_shards/shard-000001\.parquet"):
        read_embeddings(folder)
    with pytest.raises(InputError, match="lacks 1"):
        write_anndata(folder)
    metadata, _, _ = read_embeddings(folder, allow_incomplete=True)
    assert len(metadata) == 6


def test_a_shard_of_another_encoder_is_refused(make_folder) -> None:
    folder, other = folder_of(make_folder()), folder_of(make_folder("other", encoder="else"))
    shutil.copy(other / "_shards" / "shard-000001.parquet", folder / "_shards")
    with pytest.raises(InputError, match=r"shard-000001\.parquet belongs to another job"):
        read_embeddings(folder)


def test_a_shard_under_another_number_is_refused(make_folder) -> None:
    shards = folder_of(make_folder()) / "_shards"
    shutil.copy(shards / "shard-000000.parquet", shards / "shard-000001.parquet")
    with pytest.raises(InputError, match=r"shard-000001\.parquet is damaged.*it is shard 0"):
        read_embeddings(shards.parent)


@pytest.mark.parametrize("name", ["shard-000003.parquet", "shard-000000 (copy).parquet"])
def test_a_surplus_shard_is_refused(make_folder, name: str) -> None:
    shards = folder_of(make_folder()) / "_shards"
    shutil.copy(shards / "shard-000002.parquet", shards / name)
    with pytest.raises(InputError, match="is not one of the 3 shards of this job"):
        read_embeddings(shards.parent)


def test_features_changed_by_another_program_are_noticed(make_folder) -> None:
    folder = folder_of(make_folder())
    path = folder / "_shards" / "shard-000000.parquet"
    table = parquet.read_table(path)
    column = table["Image_MAE_0000"].to_numpy().copy()
    column[0] += 1
    changed = table.set_column(4, table.schema.field(4), [column])
    parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(InputError, match="does not match its checksum"):
        read_embeddings(folder)


def test_a_folder_without_its_manifest_is_refused(make_folder) -> None:
    folder = folder_of(make_folder())
    (folder / "_manifest.json").unlink()
    assert is_embeddings_folder(folder)
    with pytest.raises(InputError, match=r"it has no _manifest\.json"):
        read_embeddings(folder)


def test_an_altered_manifest_is_refused(make_folder) -> None:
    folder = folder_of(make_folder())
    value = json.loads((folder / "_manifest.json").read_text())
    for key, change in (("job", {"encoder": "else"}), ("counts", {"wells": 9})):
        altered = {**value, key: {**value[key], **change}}
        (folder / "_manifest.json").write_text(json.dumps(altered))
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            read_embeddings(folder)


def test_folders_of_format_1_open_without_checksums(make_folder) -> None:
    folder = folder_of(make_folder(format=1))
    value = json.loads((folder / "manifest.json").read_text())
    assert value["job"]["part_wells"] == 4
    assert value["counts"]["parts"] == 3
    path = folder / "parts" / "part-000001.parquet"
    table = parquet.read_table(path)
    kept = {k: v for k, v in table.schema.metadata.items() if k in (b"mae_jax.job", b"mae_jax.run")}
    parquet.write_table(table.replace_schema_metadata(kept), path)
    assert len(read_embeddings(folder)[0]) == 10


def test_a_well_that_comes_twice_is_named(make_folder) -> None:
    files = make_folder(format=1)
    path = folder_of(files) / "parts" / "part-000001.parquet"
    table = parquet.read_table(path)
    kept = {k: v for k, v in table.schema.metadata.items() if k in (b"mae_jax.job", b"mae_jax.run")}
    first = parquet.read_table(path.with_name("part-000000.parquet"))
    parquet.write_table(first.replace_schema_metadata(kept), path)
    with pytest.raises(InputError, match="has the well s E P1 A01 twice"):
        read_embeddings(folder_of(files))
