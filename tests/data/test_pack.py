"""Packing: true to the pixels, resumable, shared by processes, noticed when damaged."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from mae_jax.cli.main import main
from mae_jax.data import zarr_reader as arrays
from mae_jax.data.crops import CropReader
from mae_jax.data.image_uri import ImageURI
from mae_jax.data.images import read_site
from mae_jax.data.index import SITE, Index
from mae_jax.data.pack import PackSettings, pack, plan_units
from mae_jax.data.pipeline import crop_batches
from mae_jax.data.qc import check_index
from mae_jax.data.quantize import plate_ranges, to_uint8
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.data.writers import write_ome_zarr_image
from mae_jax.errors import InputError
from mae_jax.locks import hold
from mae_jax.nn.tiling import tile_offsets

SMALL = PackSettings(chunk=8)


@pytest.fixture(autouse=True)
def fresh_arrays() -> None:
    arrays.open_array.cache_clear()


def _sites(index: Index) -> dict[tuple[str, ...], int]:
    keys = index.table[list(SITE)].itertuples(index=False, name=None)
    return {tuple(key): row for row, key in enumerate(keys)}


def test_zarr_store_holds_the_same_pixels(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen(sites=2, size=27)))  # no multiple of the chunk
    found = pack(index, tmp_path / "store", SMALL)
    assert (found.done, found.units, found.finished, found.skipped) == (12, 12, True, 0)
    packed = Index.read(tmp_path / "store")
    assert len(packed) == len(open_screen(str(tmp_path / "store"))) == len(index) == 24
    rows = _sites(packed)
    for key, row in _sites(index).items():
        site = read_site(packed, rows[key])
        assert site.dtype == np.uint16
        assert np.array_equal(site, read_site(index, row))
    kept = [c for c in index.table.columns if c.startswith("Metadata_")]
    merged = packed.table[kept].sort_values(list(SITE)).reset_index(drop=True)
    assert merged.equals(index.table[kept].sort_values(list(SITE)).reset_index(drop=True))


def test_zarr_store_is_ome_zarr(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen(sites=2)))
    pack(index, tmp_path / "store", SMALL)
    place = tmp_path / "store" / "plates" / "lab" / "E1" / "0001.zarr"
    plate = zarr.open_group(place, mode="r")  # another implementation, from the root down
    ome = plate.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [well["path"] for well in ome["plate"]["wells"]] == ["A/1", "A/2", "A/3"]
    image = plate["A/2"][plate["A/2"].attrs["ome"]["well"]["images"][1]["path"]]
    described = image.attrs["ome"]
    assert [c["label"] for c in described["omero"]["channels"]] == ["DNA", "ER", "Mito"]
    scale = described["multiscales"][0]
    array = image[scale["datasets"][0]["path"]]
    assert [axis["name"] for axis in scale["axes"]] == ["c", "y", "x"]
    assert array.shards == (3, 24, 24)
    assert array.chunks == (3, 8, 8)
    row = index.table.index[
        (index.table["Metadata_Plate"] == "0001")
        & (index.table["Metadata_Well"] == "A02")
        & (index.table["Metadata_Site"] == "2")
    ][0]
    assert np.array_equal(array[:], read_site(index, int(row)))
    again = open_screen(str(tmp_path / "store" / "plates"))  # read back as any plates are
    assert set(again.table["Metadata_Experiment"]) == {"E1", "E2"}
    assert set(again.table["Metadata_Gene"]) == {"", "GENE1", "GENE2"}
    assert len(again) == len(index)


def test_tiles_hold_the_same_pixels(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    pack(index, tmp_path / "store", PackSettings(layout="tiles", tile=16, channels=("Mito", "DNA")))
    packed = Index.read(tmp_path / "store")
    assert packed.channels == ("Mito", "DNA")
    assert len(packed) == 12 * 4
    for row in (0, 5, 47):
        entry = packed.table.iloc[row]
        source = index.select(
            Plate=entry["Metadata_Plate"],
            Well=entry["Metadata_Well"],
            Site=entry["Metadata_Field"],
        )
        top, left = int(entry["Metadata_TileTop"]), int(entry["Metadata_TileLeft"])
        assert [top, left] in tile_offsets(24, 24, 16).tolist()
        site = read_site(source, 0, ["Mito", "DNA"])
        assert np.array_equal(read_site(packed, row), site[:, top : top + 16, left : left + 16])
    assert not [p for p in check_index(packed).errors if p.category != "duplicate"]
    assert check_index(packed).errors == ()


@pytest.mark.parametrize("layout", ["zarr", "tiles"])
def test_training_reads_the_store(layout: str, screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    pack(index, tmp_path / "store", PackSettings(layout=layout, chunk=8, tile=16))
    packed = Index.read(tmp_path / "store")
    batches = crop_batches(packed, crop=16, batch=8, seed=3, split=None)
    found = list(itertools.islice(batches, 3))
    batches.close()
    for batch in found:
        for crop, row in zip(batch["pixels"], batch["row"], strict=True):
            site = read_site(packed, int(row))
            reach = site.shape[1] - 15
            windows = [
                site[:, y : y + 16, x : x + 16]
                for y, x in itertools.product(range(reach), range(reach))
            ]
            assert any(
                np.array_equal(crop[:, ::up, ::over], window)
                for window in windows
                for up in (1, -1)
                for over in (1, -1)
            )
    if layout == "zarr":  # the same crops as from the sources: only the reading differs
        again = Index(packed.table, packed.root)
        rows = _sites(index)
        order = [rows[key] for key in _sites(again)]
        sources = Index(index.table.iloc[order], index.root)
        batches = crop_batches(sources, crop=16, batch=8, seed=3, split=None)
        for batch, expected in zip(itertools.islice(batches, 3), found, strict=True):
            assert np.array_equal(batch["pixels"], expected["pixels"])
        batches.close()


def test_the_index_of_a_store_spares_reading_metadata(
    screen: Callable[..., Path], tmp_path: Path
) -> None:
    pack(read_loaddata(str(screen())), tmp_path / "store", SMALL)
    packed = Index.read(tmp_path / "store")
    before = read_site(packed, 3)
    for file in tmp_path.glob("store/plates/**/0/0/zarr.json"):
        file.unlink()
    arrays.open_array.cache_clear()
    batches = crop_batches(packed, crop=24, batch=12, seed=0, split=None)
    batch = next(batches)
    batches.close()
    crop = batch["pixels"][batch["row"].tolist().index(3)]
    assert any(np.array_equal(crop[:, ::up, ::over], before) for up in (1, -1) for over in (1, -1))
    assert batches.errors == {}


def test_several_processes_share_the_work_and_the_last_finishes(
    screen: Callable[..., Path], tmp_path: Path
) -> None:
    source = tmp_path / "index.parquet"
    read_loaddata(str(screen())).write(source)
    store = tmp_path / "store"
    command = [sys.executable, "-m", "mae_jax.cli.main", "pack", str(source), "--out", str(store)]
    running = [
        subprocess.Popen([*command, "--shard", f"{n}/2"], stdout=subprocess.PIPE, text=True)
        for n in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert any("verified every checksum" in text for text in said)
    packed = Index.read(store)
    assert len(packed) == 12


def test_a_dead_process_is_resumed(
    screen: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mae_jax.data import pack as module

    index = read_loaddata(str(screen()))
    store = tmp_path / "store"
    written: list[str] = []
    true_write = module.write_ome_zarr_image

    def write(folder: Path, *rest: object) -> None:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(str(folder))
        true_write(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_ome_zarr_image", write)
    with pytest.raises(KeyboardInterrupt):
        pack(index, store, SMALL, threads=1)
    assert not (store / "index.parquet").exists()
    first = list(written)
    written[:] = ["never"] * 6
    found = pack(index, store, SMALL, threads=1)
    assert found.finished
    assert len(written) == 6 + 12 - 5
    assert not set(first) & set(written)
    assert len(list((store / "done").iterdir())) == 12


def test_damage_is_found_and_mended(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    store = tmp_path / "store"
    unit = plan_units(index, SMALL)[7]
    pack(index, store, SMALL)
    (store / "index.parquet").unlink()
    shard = next((store / unit.path).glob("0/0/c/0/0/0"))
    raw = bytearray(shard.read_bytes())
    raw[40] ^= 1  # one bit
    shard.write_bytes(raw)
    arrays.open_array.cache_clear()
    with pytest.raises(InputError, match=r"is damaged .* run the same command again"):
        pack(index, store, SMALL)
    assert not (store / "index.parquet").exists()
    arrays.open_array.cache_clear()
    assert pack(index, store, SMALL).finished
    assert len(Index.read(store)) == 12


def test_broken_sources_are_skipped_up_to_a_share(
    screen: Callable[..., Path], tmp_path: Path
) -> None:
    index = read_loaddata(str(screen()))
    (Path(index.root) / "images" / "0001" / "a2_s1_ER.tiff").write_bytes(b"")
    with pytest.raises(InputError, match=r"more than the share of 1.0%.*a2_s1_ER.tiff is empty"):
        pack(index, tmp_path / "strict", SMALL)
    found = pack(index, tmp_path / "store", PackSettings(chunk=8, max_unreadable_fraction=0.2))
    assert (found.finished, found.skipped) == (True, 1)
    skipped = pd.read_csv(tmp_path / "store" / "skipped.csv")
    assert "a2_s1_ER.tiff is empty" in skipped["why"][0]
    assert len(Index.read(tmp_path / "store")) == 11


def test_other_settings_need_another_store(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    pack(index, tmp_path / "store", SMALL)
    with pytest.raises(InputError, match="begun with another chunk"):
        pack(index, tmp_path / "store", PackSettings(chunk=16))
    fewer = index.select(Plate="0001")
    with pytest.raises(InputError, match="begun from another index"):
        pack(fewer, tmp_path / "store", SMALL)
    with pytest.raises(InputError, match="not empty and no store"):
        pack(index, tmp_path, SMALL)
    with pytest.raises(InputError, match="pack to a local or mounted folder"):
        pack(index, "s3://bucket/store", SMALL)
    with pytest.raises(InputError, match="smaller than a tile of 512"):
        pack(index, tmp_path / "tiles", PackSettings(layout="tiles"))


def test_eight_bits_keep_levels_where_the_signal_is(shared_data: Path) -> None:
    index = read_loaddata(str(shared_data / "cpjump1_images" / "load_data.csv"))
    site = read_site(index, 0, ["Mito"])
    ranges = plate_ranges(index, [0], ["Mito"])
    low, high = np.percentile(site, [0.1, 99.9])
    assert ranges["Mito"] == (low, high)
    scaled = to_uint8(site, ["Mito"], ranges)
    assert scaled.dtype == np.uint8
    inside = (site > low) & (site < high)
    back = low + scaled.astype(float) * (high - low) / 255
    assert np.abs(back - site)[inside].max() <= (high - low) / 255 / 2 + 1e-3

    def levels(image: np.ndarray) -> int:  # gray levels of 99 % of the pixels
        middle = image[(image >= np.percentile(image, 0.5)) & (image <= np.percentile(image, 99.5))]
        return len(np.unique(middle))

    assert levels(scaled) > 5 * levels(site >> 8)


def test_eight_bits_record_their_ranges(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = read_loaddata(str(screen()))
    out = tmp_path / "store"
    argv = ["pack", str(index.write(tmp_path / "i.parquet")), "--out", str(out), "--uint8"]
    assert main([*argv, "--chunk", "8"]) == 0
    (napari,) = re.findall(r"napari --plugin napari-ome-zarr (\S+)", capsys.readouterr().out)
    assert "plate" in json.loads((Path(napari) / "zarr.json").read_text())["attributes"]["ome"]
    packed = Index.read(out)
    row = 4
    site, scaled = read_site(index, row), read_site(packed, row)
    image = out / packed.image_uris(row)[0].path.removesuffix("/0")
    own = json.loads((image / "zarr.json").read_text())["attributes"]["mae_jax"]
    for channel, name in enumerate(packed.channels):
        low, high = own["gray_range"][name]
        expected = np.clip(np.rint((site[channel] - low) * (255 / (high - low))), 0, 255)
        assert np.abs(scaled[channel] - expected).max() <= 1
    assert scaled.dtype == np.uint8
    assert len(list((out / "ranges").iterdir())) == 4  # one a plate


def test_command_says_what_is_wrong(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(read_loaddata(str(screen())).write(tmp_path / "i.parquet"))
    for argv, message in [
        (["--shard", "2"], "NUMBER/COUNT"),
        (["--shard", "2/2"], "does not exist"),
        (["--channels", "RNA"], "has no channel 'RNA'"),
        (["--uint8", "--percentiles", "9,3"], "must rise"),
    ]:
        out = tmp_path / argv[-1].replace("/", "")
        assert main(["pack", source, "--out", str(out), *argv]) == 2
        assert message in capsys.readouterr().err


def test_stores_that_cannot_be_written(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(read_loaddata(str(screen())).write(tmp_path / "i.parquet"))
    (tmp_path / "file").write_text("mine")
    for out in ("/proc/store", str(tmp_path / "file"), str(tmp_path / "file" / "store")):
        assert main(["pack", source, "--out", out, "--chunk", "8"]) == 2
        assert f"{out} cannot be written" in capsys.readouterr().err
    for out in ("/proc/i.parquet", str(tmp_path / "file" / "i.parquet")):
        assert main(["index", source, "--out", out]) == 2
        assert f"{out} cannot be written" in capsys.readouterr().err
    folder = tmp_path / "folder"
    (folder / "precious").mkdir(parents=True)
    assert main(["index", source, "--out", str(folder)]) == 2
    assert "is a folder; choose the name of a file" in capsys.readouterr().err
    assert (folder / "precious").exists()


def test_two_processes_cannot_pack_one_shard(screen: Callable[..., Path], tmp_path: Path) -> None:
    index = read_loaddata(str(screen()))
    with hold(tmp_path / "store", "shard-0-of-1"), pytest.raises(InputError, match="in use by"):
        pack(index, tmp_path / "store", SMALL)
    assert pack(index, tmp_path / "store", SMALL).finished


def _old_store(store: Path) -> None:
    """Makes the index and the arrays of a store what they were before all chunks were stored."""
    index = Index.read(store)
    described = json.loads(index.zarr_metadata(0))
    del described["attributes"]
    for file in store.glob("plates/**/0/zarr.json"):
        if json.loads(file.read_text())["node_type"] == "array":
            file.write_text(json.dumps(described))
    table = index.table.assign(Zarr=json.dumps(described))
    Index(table, index.root).write(store / "index.parquet")


@pytest.mark.parametrize("old", [False, True])
def test_a_missing_shard_is_an_unreadable_site(
    old: bool, screen: Callable[..., Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    pack(read_loaddata(str(screen())), store, SMALL)
    if old:
        _old_store(store)
    packed = Index.read(store)
    shard = Path(packed.image_uris(3)[0].path, "c", "0", "0", "0")
    shard.unlink()
    reader = CropReader(packed, packed.channels, 8)
    assert reader.center(2).any()
    with pytest.raises(InputError, match=re.escape(str(shard))):
        reader.center(3)
    if not old:
        with pytest.raises(InputError, match=re.escape(str(shard))):
            read_site(packed, 3)


def test_black_sites_are_no_missing_ones(screen: Callable[..., Path], tmp_path: Path) -> None:
    black = np.zeros((2, 24, 24), np.uint16)
    write_ome_zarr_image(tmp_path / "0", black, ("DNA", "ER"), 8, {})
    planes = [ImageURI(str(tmp_path / "0" / "0"), (("index", str(c)),)) for c in range(2)]
    assert not arrays.read_array_planes(planes).any()
