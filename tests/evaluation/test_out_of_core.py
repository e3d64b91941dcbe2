"""Reading, fitting and correcting block by block gives what the whole in memory gives."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.linalg

from mae_jax.errors import InputError
from mae_jax.evaluation import CORRECTIONS, Profiles, fit
from mae_jax.evaluation.correction_spec import TRANSDUCTIVE
from mae_jax.evaluation.corrections import Source
from mae_jax.evaluation.moments import Moments, inverse_root, inverse_root_of_rows
from mae_jax.evaluation.out_of_core import StreamedProfiles, correct_stream, fit_stream


@pytest.fixture
def folder(screen: Profiles, tmp_path: Path) -> Path:
    for part, rows in enumerate(np.array_split(np.arange(len(screen)), 3)):
        screen.take(rows).write(tmp_path / "mae" / f"{part:05d}.parquet")
    return tmp_path / "mae"


def test_blocks_are_the_rows(screen: Profiles, folder: Path) -> None:
    stream = StreamedProfiles(folder, rows=50)
    assert isinstance(stream, Source)
    blocks = list(stream.blocks())
    assert max(map(len, blocks)) <= 50
    np.testing.assert_array_equal(np.concatenate([b.features for b in blocks]), screen.features)
    assert (stream.metadata.to_numpy() == screen.metadata.to_numpy()).all()
    assert stream.names == screen.names
    rows = np.array([3, 140, 141, 359])
    np.testing.assert_array_equal(stream.take(rows).features, screen.features[rows])
    assert len(stream.take(np.zeros(len(screen), bool))) == 0


def test_one_block_is_in_memory_at_a_time(tmp_path: Path) -> None:
    path, rows, width = tmp_path / "wells.parquet", 500, 64
    rng = np.random.default_rng(0)
    features = {f"f{i}": rng.standard_normal(20 * rows, np.float32) for i in range(width)}
    table = pa.table({"Metadata_Well": ["A01"] * 20 * rows, **features})
    pq.write_table(table, path, row_group_size=rows)
    del table
    before, held = pa.total_allocated_bytes(), []
    for _ in StreamedProfiles(path, rows=rows).blocks():
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == 20
    assert max(held) < 20 * rows * width * 4 / 2  # of the whole file


@pytest.mark.parametrize("fit_on", ["controls", "all"])
@pytest.mark.parametrize(
    "method",
    [
        *(name for name in CORRECTIONS if name not in TRANSDUCTIVE),
        "center-scale:fit=all|pca:components=5,fit=all|int|tvn:scale=yes,recolor=yes",
        "mad:batch=all|select:correlation=0.6|sphering:method=pca,batch=plate",
    ],
)
def test_is_what_memory_gives(
    screen: Profiles, folder: Path, tmp_path: Path, method: str, fit_on: str
) -> None:
    stream = StreamedProfiles(folder, rows=64)
    fitted = fit_stream(stream, method, fit_on=fit_on)
    got = Profiles.read(correct_stream(stream, fitted, tmp_path / "out.parquet"))
    want = fit(screen, method, fit_on=fit_on).transform(screen)
    assert got.names == want.names
    a, b = got.features, want.features
    if "pca" in method or "tvn" in method:  # the signs of axes are free
        a, b = a @ a.T, b @ b.T
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_a_batch_without_controls_is_named(screen: Profiles, tmp_path: Path) -> None:
    lone = screen.take(~(screen.controls() & (screen.batches("plate") == "E1/P0")))
    stream = StreamedProfiles(lone.write(tmp_path / "p.parquet"))
    with pytest.raises(InputError, match="E1/P0 has 0"):
        correct_stream(stream, fit_stream(stream, "center-plate"), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_value_that_is_not_finite_is_named(screen: Profiles, tmp_path: Path) -> None:
    features = screen.features.copy()
    features[37, 2] = np.nan
    holed = Profiles(screen.metadata, features, screen.names)
    stream = StreamedProfiles(holed.write(tmp_path / "p.parquet"), rows=30)
    with pytest.raises(InputError, match=f"NaN or infinity in feature {screen.names[2]}"):
        correct_stream(stream, fit_stream(stream, "none"), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_only_parquet_streams(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    with pytest.raises(InputError, match="not parquet"):
        StreamedProfiles(tmp_path / "a.csv")
    with pytest.raises(InputError, match="does not exist"):
        StreamedProfiles(tmp_path / "none")


def test_moments_of_blocks_are_those_of_the_whole() -> None:
    x = np.random.default_rng(0).standard_normal((97, 4)) * 3 + 100
    moments = Moments.empty(4, full=True)
    for block in np.array_split(x, [1, 1, 30]):
        moments.add(block)
    np.testing.assert_allclose(moments.covariance(ddof=1), np.cov(x, rowvar=False))
    np.testing.assert_allclose(moments.deviation(), x.std(axis=0))
    assert moments.count == 97
    root = inverse_root(moments.covariance())
    np.testing.assert_allclose(root @ moments.covariance() @ root, np.eye(4), atol=1e-10)


@pytest.mark.parametrize("rows", [5, 12, 40])
def test_the_root_from_few_rows_is_that_of_their_covariance(rows: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, 12)) * np.linspace(0.01, 9, 12)
    x[:, 3] = 2.0  # a constant feature
    covariance = np.cov(x, rowvar=False, ddof=1) + 0.5 * np.eye(12)
    expected = scipy.linalg.fractional_matrix_power(covariance, -0.5)
    np.testing.assert_allclose(inverse_root_of_rows(x, 0.5), expected, rtol=1e-9, atol=1e-11)
