"""Damaged and surplus shards are moved away and done again; outputs that cannot be written."""

import errno
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from mae_jax.embeddings.output_store import OutputStore
from mae_jax.encoders.baselines import IntensityEncoder
from mae_jax.errors import InputError, MachineError
from mae_jax.inference import embed_index as embed_on_all
from mae_jax.inference import read_crops, read_embeddings

embed_index = partial(
    embed_on_all,
    IntensityEncoder(crop=32),
    devices=jax.local_devices()[:1],
    wells_per_shard=3,
    batch_size=4,
    progress=False,
)


@pytest.fixture
def index(make_screen):
    return make_screen(wells=7, sites=1)


@pytest.fixture
def out(index, tmp_path: Path) -> Path:
    embed_index(index, tmp_path / "out")
    return tmp_path / "out"


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for position in range(len(content) // 8, len(content), len(content) // 8):
        content[position] ^= 4
    path.write_bytes(content)


def test_a_damaged_shard_is_moved_away_and_done_again(index, out: Path) -> None:
    path = out / "_shards" / "shard-000001.parquet"
    before = read_embeddings(out)
    content = path.read_bytes()
    damage(path)
    with pytest.raises(InputError, match=r"shard-000001\.parquet is damaged"):
        read_embeddings(out)
    report = embed_index(index, out)
    assert report.complete
    assert (report.shards, report.wells, report.already_done) == (1, 3, 3)
    assert "shard-000001.parquet is damaged" in report.quarantined[0]
    assert "1 file moved to quarantine" in str(report)
    assert (out / "_quarantine" / "shard-000001.parquet.0").stat().st_size == len(content)
    after = read_embeddings(out)
    assert after[0].equals(before[0])
    np.testing.assert_array_equal(after[1], before[1])
    assert embed_index(index, out).quarantined == ()


def test_the_last_task_finds_the_damage_of_all(index, tmp_path: Path) -> None:
    out = tmp_path / "tasks"
    embed_index(index, out, task="0/2")
    damage(out / "_shards" / "shard-000000.parquet")
    report = embed_index(index, out, task="1/2")
    assert report.complete
    assert len(report.quarantined) == 1
    assert len(read_embeddings(out)[0]) == 7


def test_a_surplus_shard_does_not_keep_a_job_from_completing(index, out: Path) -> None:
    shutil.copy(out / "_shards" / "shard-000002.parquet", out / "_shards" / "shard-000003.parquet")
    (out / "_shards" / "shard-000001.parquet").unlink()
    report = embed_index(index, out)
    assert report.complete
    assert "shard-000003.parquet is not a shard of this job" in report.quarantined[0]
    assert len(read_embeddings(out)[0]) == 7


def test_a_shard_of_another_job_is_done_again(index, out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    embed_index(index, other, channels=("DNA",))
    before = read_embeddings(out)[1]
    shutil.copy(other / "_shards" / "shard-000001.parquet", out / "_shards")
    report = embed_index(index, out)
    assert "belongs to another job" in report.quarantined[0]
    np.testing.assert_array_equal(read_embeddings(out)[1], before)


def test_missing_arrays_are_done_again(index, tmp_path: Path) -> None:
    out = tmp_path / "crops"
    embed_index(index, out, save_crops=True)
    (out / "_arrays" / "shard-000002.zarr.zip").unlink()
    report = embed_index(index, out, save_crops=True)
    assert report.shards == 1
    assert "shard-000002.zarr.zip is missing" in report.quarantined[0]
    assert (out / "_arrays" / "shard-000002.zarr.zip").exists()
    path = out / "_arrays" / "shard-000001.zarr.zip"
    path.write_bytes(path.read_bytes()[:-100])
    report = embed_index(index, out, save_crops=True)
    assert "shard-000001.zarr.zip is damaged" in report.quarantined[0]
    assert sum(len(table) for table, _ in read_crops(out)) == 7 * 4


def as_format_1(out: Path) -> None:
    """Rewrites a folder as version 0.1 left it."""
    from dataclasses import replace

    from mae_jax.embeddings.manifest import read_manifest
    from mae_jax.embeddings.shards import ShardFiles

    store = OutputStore(out)
    manifest = read_manifest(store)
    files = ShardFiles(store, manifest)
    old = ShardFiles(store, replace(manifest, format=1, job_hash=""))
    for shard in sorted(files.completed()):
        table, run = files.read(shard)
        counted = [name for name in table.column_names if name.endswith("_Count")]
        table = table.drop_columns(counted)  # they came with format 3
        columns = [name for name in table.column_names if name.startswith("Metadata_")]
        features = [name for name in table.column_names if name not in columns]
        old.write(
            shard,
            run=run,
            columns=columns,
            metadata=list(zip(*(table[name].to_pylist() for name in columns), strict=True)),
            features=np.stack([table[name].to_numpy() for name in features], axis=1),
        )
    for path in (*out.glob("*.parquet"), *out.glob("_*")):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    store.write(old.manifest.name, old.manifest.encode())


def test_a_folder_of_version_0_1_is_resumed_as_it_is(index, out: Path) -> None:
    before = read_embeddings(out)[1]
    as_format_1(out)
    (out / "parts" / "part-000001.parquet").unlink()
    report = embed_index(index, out)
    assert (report.shards, report.already_done, report.complete) == (1, 2, True)
    assert sorted(p.name for p in (out / "parts").iterdir()) == [
        f"part-{i:06d}.parquet" for i in range(3)
    ]
    assert not (out / "_shards").exists()
    assert json.loads((out / "manifest.json").read_text())["format"] == "mae_jax embeddings 1"
    np.testing.assert_array_equal(read_embeddings(out)[1], before)


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_any_damage_is_repaired(index, out: Path, count: int) -> None:
    """Whatever happens to the shards, the same command ends with the same numbers."""
    before = read_embeddings(out)
    rng = random.Random(0)
    for _ in range(count):
        path = out / "_shards" / f"shard-{rng.randrange(3):06d}.parquet"
        content = path.read_bytes()
        cut = rng.randrange(len(content))
        path.write_bytes(
            rng.choice(
                [content[:cut], content[:cut] + rng.randbytes(40) + content[cut + 40 :], b""]
            )
        )
        assert embed_index(index, out).complete
        after = read_embeddings(out)
        assert after[0].equals(before[0])
        np.testing.assert_array_equal(after[1], before[1])


def test_a_file_in_place_of_the_folder(index, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("occupied")
    with pytest.raises(InputError, match=r"file.* cannot be"):
        embed_index(index, tmp_path / "file")
    folder = tmp_path / "folder"
    (folder / "_manifest.json").mkdir(parents=True)
    with pytest.raises(InputError, match=r"manifest\.json cannot be read"):
        embed_index(index, folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(index, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written"):
        embed_index(index, tmp_path / "closed" / "out")


def test_a_full_disk_is_a_machine_failure(index, tmp_path: Path, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"cannot be written: No space left on device; run"):
        embed_index(index, tmp_path / "out")
    assert not list((tmp_path / "out" / ".partial").iterdir())
