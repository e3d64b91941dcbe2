"""Damaged files: no flipped bit goes unseen, and nothing but one sentence comes of any mutation."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mae_jax.embeddings import read_crops, read_embeddings, read_tokens
from mae_jax.embeddings.crop_arrays import CropArrayWriter
from mae_jax.embeddings.manifest import NAME, Manifest
from mae_jax.embeddings.output_store import OutputStore
from mae_jax.embeddings.shards import ShardFiles, ShardRun
from mae_jax.errors import InputError

SEEDS = [pytest.param(30, id="30"), pytest.param(300, id="300", marks=pytest.mark.slow)]


def read_or_refuse(folder: Path) -> tuple | None:
    """What the folder holds, or None if it is refused by one sentence."""
    try:
        metadata, features, names = read_embeddings(folder)
    except InputError as error:
        message = str(error)
    else:
        return metadata, features, names
    assert "\n" not in message
    return None


def same(left: tuple, right: tuple) -> bool:
    return bool(
        left[0].equals(right[0]) and left[2] == right[2] and np.array_equal(left[1], right[1])
    )


@pytest.mark.parametrize("flips", SEEDS)
def test_a_flipped_bit_of_a_shard_is_noticed_or_harmless(make_folder, flips: int) -> None:
    folder = Path(str(make_folder().store))
    path = folder / "_shards" / "shard-000001.parquet"
    content = path.read_bytes()
    before = read_embeddings(folder)
    rng = random.Random(0)
    noticed = 0
    for _ in range(flips):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        after = read_or_refuse(folder)
        noticed += after is None
        assert after is None or same(before, after)
    assert noticed > 0.5 * flips


def mutations(content: bytes, count: int) -> Iterator[bytes]:
    """Random changes: bytes replaced, cut, repeated, zeroed or appended."""
    rng = random.Random(1)
    for _ in range(count):
        start = rng.randrange(max(1, len(content)))
        end = min(len(content), start + rng.choice([1, 4, 64, 1000]))
        change = rng.randrange(6)
        if change == 0:
            yield content[:start] + rng.randbytes(end - start) + content[end:]
        elif change == 1:
            yield content[:start]
        elif change == 2:
            yield content[:start] + content[end:]
        elif change == 3:
            yield content[:end] + content[start:]
        elif change == 4:
            yield content[:start] + bytes(end - start) + content[end:]
        else:
            yield content + rng.randbytes(end - start)


@pytest.mark.parametrize("count", SEEDS)
@pytest.mark.parametrize("format", [1, 2, 3])
@pytest.mark.parametrize("target", ["manifest", "shard"])
def test_mutated_files_are_refused_or_read_alike(
    make_folder, target: str, format: int, count: int
) -> None:
    files = make_folder(format=format)
    folder = Path(str(files.store))
    path = folder / (files.manifest.name if target == "manifest" else files.name(1))
    before = read_embeddings(folder)
    for content in mutations(path.read_bytes(), count):
        path.write_bytes(content)
        after = read_or_refuse(folder)
        assert after is None or same(before, after)


@pytest.mark.parametrize("values", ["runs", "zeros"])
def test_small_files_that_claim_to_be_large_are_refused_unread(make_folder, values: str) -> None:
    files = make_folder()
    path = Path(str(files.store)) / files.name(1)
    column = pa.array(np.zeros(20_000_000, np.float32))
    table = pa.table({"Image_MAE_0000": column})
    parquet.write_table(table, path, use_dictionary=values == "runs", compression="zstd")
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match=r"claims \d+ bytes of data in a file of"):
        read_embeddings(path.parents[1])
    assert pa.total_allocated_bytes() - before < 1 << 20


VALUES = ["null", "-1", "0", "1e400", '"x"', "[]", "{}", "true", "9" * 30]


@pytest.mark.parametrize("format", [1, 2])
def test_manifests_with_other_values_are_refused_or_read_alike(make_folder, format: int) -> None:
    """With checksums made good again, as a hostile author would."""
    import json

    from mae_jax.embeddings.manifest import _hash

    files = make_folder(format=format)
    folder = Path(str(files.store))
    path = folder / files.manifest.name
    original = json.loads(path.read_text())
    before = read_embeddings(folder)
    keys = [(key,) for key in original]
    keys += [("job", key) for key in original["job"]] + [("counts", k) for k in original["counts"]]
    for key in keys:
        for text in VALUES:
            value = json.loads(json.dumps(original))
            inner = value if len(key) == 1 else value[key[0]]
            inner[key[-1]] = json.loads(text)
            if isinstance(value["job"], dict) and key[-1] != "job_hash":
                value["job_hash"] = _hash(value["job"])
            if key[-1] != "checksum":
                value["checksum"] = _hash({k: v for k, v in value.items() if k != "checksum"})
            path.write_text(json.dumps(value))
            after = read_or_refuse(folder)
            assert after is None or same(before, after)
    path.write_text("[" * 100_000)
    assert read_or_refuse(folder) is None


@pytest.mark.parametrize("count", SEEDS)
def test_damaged_crops_and_tokens_are_refused_or_read_alike(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "out"
    manifest = Manifest(
        {"outputs": ["crops", "tokens"], "wells_per_shard": 2},
        counts={"wells": 2, "sites": 2, "shards": 1},
    )
    store = OutputStore(folder)
    store.write(NAME, manifest.encode())
    files = ShardFiles(store, manifest)
    numbers = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    columns, wells = ("Metadata_Plate", "Metadata_Well"), [("P", "A01"), ("P", "A02")]
    writer = CropArrayWriter(files, 0, columns)
    for well in range(2):
        writer.add_tokens(well, wells[well], ("DNA",), numbers[well])
    places = [np.zeros((3, 3), np.int32)] * 2
    sha256 = writer.finish(wells, [["1"], ["1"]], places, list(numbers[:, :, 0]))
    run = ShardRun(2, 0, 6, {}, sha256)
    features = np.ones((2, 5), np.float32)
    files.write(0, run=run, columns=columns, metadata=wells, features=features)

    def load() -> list:
        crops = [(table.to_csv(), vectors.tobytes()) for table, vectors in read_crops(folder)]
        return crops + [(str(well), tokens.tobytes()) for well, _, tokens in read_tokens(folder)]

    def load_or_refuse() -> tuple[list | None, str]:
        try:
            return load(), ""
        except InputError as error:
            return None, str(error)

    path = folder / "_arrays" / "shard-000000.zarr.zip"
    content = path.read_bytes()
    before = load()
    rng = random.Random(0)
    flips = [rng.randrange(8 * len(content)) for _ in range(count)]
    flipped = [
        content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]
        for bit in flips
    ]
    refused = 0
    for damaged in (*flipped, *mutations(content, count)):
        path.write_bytes(damaged)
        after, message = load_or_refuse()
        assert after is None or after == before
        assert "\n" not in message
        refused += after is None
    assert refused > 0.5 * count
