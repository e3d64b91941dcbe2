"""Damaged and hostile profiles files: one sentence, bounded memory, nothing outside of arrays."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from mae_jax.errors import InputError
from mae_jax.evaluation import Correction, Profiles, fit
from mae_jax.evaluation.out_of_core import StreamedProfiles

HERE = Path(__file__).parent
BOUND = 64 << 20  # bytes; the files below hold some ten thousand


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A copy of an .h5ad file that anndata wrote, X in CSR: 3 wells, 2 features."""
    return Path(shutil.copy(HERE / "sparse.h5ad", tmp_path / "sparse.h5ad"))


def overwrite(name: str, values: list[float], dtype: str = "int32") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = np.array(values, dtype)

    return change


def shape(*sizes: int) -> Callable[[h5py.File], None]:
    return lambda file: file["X"].attrs.__setitem__("shape", np.array(sizes, np.int64))


def bomb(file: h5py.File) -> None:
    del file["X"]
    file.create_dataset("X", (1 << 20, 1 << 14), "float32", chunks=(1024, 1024), compression="gzip")


def external(file: h5py.File) -> None:
    del file["X"]
    file.create_dataset("X", (3, 2), "float32", external=[("/etc/hostname", 0, 24)])


def link(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("other.h5ad", "/X")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overwrite("X/indices", [0, 1, 1, 0, 7]), "an index is outside of 0 to 1"),
        (overwrite("X/indices", [0, 1, 1, 0, -9]), "an index is outside of 0 to 1"),
        (overwrite("X/indices", [0, 1, 1, 0, 2**31], "int64"), "an index is outside of 0 to 1"),
        (overwrite("X/indptr", [0, 2, 3, 50]), "5 values, 5 indices and 50 in indptr"),
        (overwrite("X/indptr", [0, 3, 2, 5]), "indptr does not describe 3 rows"),
        (overwrite("X/indptr", [1, 2, 3, 5]), "indptr does not describe 3 rows"),
        (overwrite("X/indptr", [0, 2, 5]), "indptr does not describe 3 rows"),
        (overwrite("X/data", [1, 2], "float32"), "2 values, 5 indices"),
        (overwrite("X/indices", [0.5, 1, 1, 0, 1], "float32"), "has type float32"),
        (shape(3, 2**35), "claim a dense matrix"),
        (shape(-3, 2), "has shape"),
        (shape(2, 2), "indptr does not describe 2 rows"),
        (shape(3, 2, 2), "has shape"),
        (overwrite("obs/Gene/codes", [0, -1, 9], "int8"), "has no category"),
        (overwrite("obs/Gene/codes", [0, -1], "int8"), "has 2 rows, the matrix 3"),
        (bomb, "claims 68719476736 bytes of which 0 are stored"),
        (external, "is stored in another file"),
        (link, "is a link to another file"),
    ],
)
def test_elements_that_do_not_fit(
    sparse: Path, change: Callable[[h5py.File], None], message: str
) -> None:
    with h5py.File(sparse, "r+") as file:
        columns = [c for c in file["obs"] if c.lower().endswith("gene")]
        if columns and columns[0] != "Gene":
            file["obs"].move(columns[0], "Gene")
            order = [str(c) for c in file["obs"].attrs["column-order"]]
            names = ["Gene" if c == columns[0] else c for c in order]
            file["obs"].attrs["column-order"] = np.array(names, dtype=h5py.string_dtype())
        change(file)
    with pytest.raises(InputError, match=message) as error:
        Profiles.read(sparse)
    assert str(error.value).startswith(str(sparse))
    assert "\n" not in str(error.value)


def test_an_unchanged_copy_is_read(sparse: Path) -> None:
    np.testing.assert_array_equal(Profiles.read(sparse).features, [[1, 2], [0, 4], [5, 0.5]])


def csv(profiles: Profiles, path: Path) -> None:
    frame = pd.DataFrame(profiles.features, columns=list(profiles.names))
    pd.concat([profiles.metadata, frame], axis=1).to_csv(path, index=False)


def originals(screen: Profiles, folder: Path) -> dict[str, Path]:
    """One small valid file of each format."""
    small = screen.take(np.arange(40))
    paths = {e: folder / f"a{e}" for e in (".parquet", ".csv", ".csv.gz", ".h5ad", ".npy")}
    small.write(paths[".parquet"])
    csv(small, paths[".csv"])
    csv(small, paths[".csv.gz"])
    small.write(paths[".h5ad"])
    np.save(paths[".npy"], small.features)
    small.write(folder / "metadata.parquet")
    paths["sparse.h5ad"] = Path(shutil.copy(HERE / "sparse.h5ad", folder / "sparse.h5ad"))
    return paths


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flipped bits, overwritten or removed stretches, or a cut."""
    out = bytearray(data)
    way, at = rng.integers(5), int(rng.integers(len(data)))
    if way == 0:
        for position in rng.integers(len(out), size=rng.integers(1, 8)):
            out[position] ^= 1 << int(rng.integers(8))
    elif way == 1:
        out[at : at + 8] = rng.bytes(8)
    elif way == 2:
        del out[at : at + int(rng.integers(1, 64))]
    elif way == 3:
        del out[at:]
    else:
        out[at : at + 8] = b"\xff" * 8
    return bytes(out)


def attack(original: Path, target: Path, rounds: int) -> int:
    """Read mutated files; returns how many were refused."""
    data, refused = original.read_bytes(), 0
    second = original.parent / "metadata.parquet" if original.suffix == ".npy" else None
    tracemalloc.start()
    for seed in range(rounds):
        target.write_bytes(mutate(data, np.random.default_rng(seed)))
        tracemalloc.reset_peak()
        message = ""
        try:
            profiles = Profiles.read(target, second)
            assert profiles.features.shape == (len(profiles.metadata), len(profiles.names))
            assert profiles.features.dtype == np.float32
        except InputError as error:
            message = str(error)
        if message:
            refused += 1
            assert "\n" not in message, seed
            assert target.name in message, seed
        assert tracemalloc.get_traced_memory()[1] < BOUND, seed
    tracemalloc.stop()
    return refused


FORMATS = [".parquet", ".csv", ".csv.gz", ".h5ad", ".npy", "sparse.h5ad"]


@pytest.mark.parametrize("ending", FORMATS)
def test_some_mutations(screen: Profiles, tmp_path: Path, ending: str) -> None:
    original = originals(screen, tmp_path)[ending]
    assert attack(original, tmp_path / f"mutated{original.name[1:]}", 40) > 0


@pytest.mark.slow
@pytest.mark.parametrize("ending", FORMATS)
def test_many_mutations(screen: Profiles, tmp_path: Path, ending: str) -> None:
    original = originals(screen, tmp_path)[ending]
    assert attack(original, tmp_path / f"mutated{original.name[1:]}", 600) > 20


def test_damaged_parquet_in_blocks(screen: Profiles, tmp_path: Path) -> None:
    screen.write(tmp_path / "a.parquet")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[5000:5400] = b"\xff" * 400
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(InputError, match=r"a.parquet is not readable as parquet") as error:
        list(StreamedProfiles(tmp_path / "a.parquet").blocks())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rounds", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_mutated_fits(screen: Profiles, tmp_path: Path, rounds: int) -> None:
    fit(screen, "tvn").save(tmp_path / "fit.npz")
    data, refused = (tmp_path / "fit.npz").read_bytes(), 0
    for seed in range(rounds):
        (tmp_path / "bad.npz").write_bytes(mutate(data, np.random.default_rng(seed)))
        message = ""
        try:
            Correction.load(tmp_path / "bad.npz")
        except InputError as error:
            message = str(error)
        refused += bool(message)
        assert "\n" not in message
    assert refused > rounds / 2
