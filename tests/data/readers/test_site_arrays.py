"""Stores with one Zarr array per site, written as JUMP-lite writes its own."""

import hashlib
import json
from pathlib import Path

import fsspec
import imagecodecs.numcodecs
import numpy as np
import pandas as pd
import pytest
import zarr
import zarr.codecs

from mae_jax.data import crop_batches, open_screen
from mae_jax.data.images import read_site
from mae_jax.data.readers.site_arrays import JUMP_LITE_CHANNELS
from mae_jax.data.zarr_reader import open_array
from mae_jax.errors import InputError

KEYS = (
    "source_4__2021_06_14_Batch6__BR00124778__E14__2",
    "source_13__20220914_Run1__CP-CC9-R1-05__L07__1",
)
SHAPES = ((5, 48, 48), (5, 40, 56))
RNG = np.random.default_rng(0)


def _pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth planes, which JPEG-XL changes little."""
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    planes = [1000 * (n + 1) + 20 * y + 10 * x for n in range(int(np.prod(shape[:-2])))]
    return np.stack(planes).reshape(shape).astype(np.uint16)


def _store(root: Path, codec: str) -> Path:
    path = root / f"{codec}.zarr"
    version = 3 if codec == "zstd" else 2
    zarr.open_group(path, mode="w", zarr_format=version)
    imagecodecs.numcodecs.register_codecs(verbose=False)
    for key, shape in zip(KEYS, SHAPES, strict=True):
        compressor = (
            zarr.codecs.BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle")
            if codec == "zstd"
            else imagecodecs.numcodecs.Jpegxl(lossless=False, distance=1.0)
        )
        array = zarr.create_array(
            path / key, shape=shape, chunks=shape, dtype="u2", compressors=compressor,
            zarr_format=version,
        )  # fmt: skip
        array[...] = _pixels(shape)
    return path


def test_the_layout_is_the_released_one(tmp_path: Path) -> None:
    """The metadata files of an array of 996² have the bytes that the release attests."""
    imagecodecs.numcodecs.register_codecs(verbose=False)
    shape = (5, 996, 996)
    zarr.create_array(
        tmp_path / "hq", shape=shape, chunks=shape, dtype="u2", zarr_format=2,
        compressors=imagecodecs.numcodecs.Jpegxl(lossless=False, distance=1.0),
    )  # fmt: skip
    assert hashlib.sha256((tmp_path / "hq" / ".zarray").read_bytes()).hexdigest()[:8] == "ae8966cb"
    zarr.create_array(
        tmp_path / "zstd", shape=shape, chunks=shape, dtype="u2", zarr_format=3,
        compressors=zarr.codecs.BloscCodec(cname="zstd", clevel=9, shuffle="bitshuffle"),
    )  # fmt: skip
    raw = (tmp_path / "zstd" / "zarr.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest()[:8] == "967ef34a"


@pytest.mark.parametrize("codec", ["zstd", "jpegxl"])
def test_sites_and_channels(tmp_path: Path, codec: str) -> None:
    index = open_screen(str(_store(tmp_path, codec)))
    assert index.channels == JUMP_LITE_CHANNELS
    table = index.table.set_index("Metadata_Source")
    row = table.loc["source_4"]
    names = ("Experiment", "Plate", "Well", "Site")
    values = ["2021_06_14_Batch6", "BR00124778", "E14", "2"]
    assert [row[f"Metadata_{name}"] for name in names] == values
    number = index.table["Metadata_Source"].tolist().index("source_13")
    site = read_site(index, number, ["RNA", "AGP"])
    expected = _pixels(SHAPES[1])[[4, 0]].astype(int)
    assert site.shape == (2, 40, 56)
    assert np.abs(site - expected).max() <= (0 if codec == "zstd" else 80)
    batches = crop_batches(index, crop=32, batch=4, seed=0)
    assert next(iter(batches))["pixels"].shape == (4, 5, 32, 32)


@pytest.mark.parametrize("codec", ["zstd", "jpegxl"])
def test_a_store_at_a_url(tmp_path: Path, codec: str) -> None:
    path = _store(tmp_path, codec)
    memory = fsspec.filesystem("memory")
    url = f"memory://lite-{codec}"
    memory.put(str(path), f"/lite-{codec}", recursive=True)
    local, remote = open_screen(str(path)), open_screen(url)
    assert remote.table["Metadata_Plate"].tolist() == local.table["Metadata_Plate"].tolist()
    assert np.array_equal(read_site(remote, 1), read_site(local, 1))
    memory.rm(f"/lite-{codec}", recursive=True)


def test_metadata_in_parquet_name_the_controls(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "Metadata_Source": ["source_4", "source_13"],
            "Metadata_Batch": ["2021_06_14_Batch6", "20220914_Run1"],
            "Metadata_Plate": ["BR00124778", "CP-CC9-R1-05"],
            "Metadata_Well": ["E14", "L07"],
            "Metadata_JCP2022": ["JCP2022_915128", "JCP2022_800123"],
            "Metadata_pert_type": ["negcon", "trt"],
            "Metadata_Count": [1.0, None],
        }
    )
    table.to_parquet(tmp_path / "perturbations.parquet")
    index = open_screen(
        str(_store(tmp_path, "zstd")), metadata=str(tmp_path / "perturbations.parquet")
    )
    rows = index.table.set_index("Metadata_Source")
    assert rows.loc["source_4", "Metadata_ControlType"] == "negcon"
    assert rows.loc["source_4", "Metadata_Count"] == "1"
    assert rows.loc["source_13", "Metadata_ControlType"] == ""
    assert rows.loc["source_13", "Metadata_Perturbation"] == "JCP2022_800123"


def test_other_keys_planes_and_channels(tmp_path: Path) -> None:
    path = tmp_path / "own.zarr"
    zarr.open_group(path, mode="w", zarr_format=3)
    pixels = _pixels((2, 3, 20, 24))
    for well in ("B02", "B03"):
        array = zarr.create_array(
            path / f"P1-{well}", shape=pixels.shape, chunks=(1, 1, 20, 24), dtype="u2"
        )
        array[...] = pixels
    options = {"format": "site-arrays", "pattern": "{Metadata_Plate}-{Metadata_Well}"}
    with pytest.raises(InputError, match=r"no array named source__batch.*but 'P1-B02'; describe"):
        open_screen(str(path), format="site-arrays")
    with pytest.raises(InputError, match="3 z-planes; choose one with --plane"):
        open_screen(str(path), **options)
    with pytest.raises(InputError, match="2 channels; name each with --channel-names"):
        open_screen(str(path), plane=0, **options)
    one = open_screen(str(path), plane=2, channel_names=["DNA", "ER"], **options)
    assert np.array_equal(read_site(one, 1), pixels[:, 2])
    highest = open_screen(str(path), plane="max", channel_names=["DNA", "ER"], **options)
    assert np.array_equal(read_site(highest, 1), pixels.max(axis=1))
    mean = open_screen(str(path), plane="mean", channel_names=["DNA", "ER"], **options)
    assert np.array_equal(read_site(mean, 0), np.rint(pixels.mean(axis=1)))
    crops = crop_batches(highest, crop=16, batch=2, seed=0)
    assert next(iter(crops))["pixels"].shape == (2, 2, 16, 16)


def test_damaged_stores(tmp_path: Path) -> None:
    path = _store(tmp_path, "jpegxl")
    index = open_screen(str(path))
    chunk = path / KEYS[1] / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:200])
    with pytest.raises(InputError, match=r"L07__1 is broken or cannot be read"):
        read_site(index, index.table["Metadata_Source"].tolist().index("source_13"))
    chunk.unlink()  # Zarr would read zeros
    open_array.cache_clear()
    with pytest.raises(InputError, match=r"0\.0\.0 does not exist; copy the store again"):
        read_site(index, index.table["Metadata_Source"].tolist().index("source_13"))
    described = json.loads((path / KEYS[1] / ".zarray").read_text())
    described["compressor"]["id"] = "nobody_knows"
    (path / KEYS[1] / ".zarray").write_text(json.dumps(described))
    open_array.cache_clear()
    with pytest.raises(InputError, match="cannot be opened as a Zarr array"):
        open_screen(str(path))
