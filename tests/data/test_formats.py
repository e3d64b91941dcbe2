"""Formats in their true layouts: data sets' folders, OME-Zarr, parquet, arrays, encodings."""

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import imagecodecs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

from mae_jax.data.illumination import with_illumination
from mae_jax.data.image_uri import parse
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.qc import check_index
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.readers.open_screen import guess, open_screen
from mae_jax.data.zarr_reader import open_array, read_window_async
from mae_jax.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (20, 30), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["tiff", "big-endian tiff", "bigtiff", "png", "jp2", "j2k", "npy"])
def test_encodings(kind: str, dtype: type, tmp_path: Path) -> None:
    image = IMAGE.astype(dtype) * (200 if dtype is np.uint16 else 1)
    path = tmp_path / "plane"  # what it is says the content, not the name
    if "tiff" in kind:
        order = ">" if "endian" in kind else "<"
        tifffile.imwrite(path, image, byteorder=order, bigtiff=kind == "bigtiff")
    elif kind == "png":
        path.write_bytes(imagecodecs.png_encode(image))
    elif kind in ("jp2", "j2k"):
        raw = imagecodecs.jpeg2k_encode(image, reversible=True, codecformat=kind)
        path.write_bytes(raw)
    else:
        with path.open("wb") as file:
            np.save(file, image)
    plane = read_planes([parse(str(path))])[0]
    assert plane.dtype == dtype
    assert np.array_equal(plane, image)
    if kind != "npy":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=r"plane is broken or truncated"):
            read_planes([parse(str(path))])


def test_what_is_no_plane(tmp_path: Path) -> None:
    (tmp_path / "notes.tiff").write_text("not an image")
    with pytest.raises(InputError, match=r"notes.tiff is no TIFF, PNG, JPEG, JPEG-2000 or NPY"):
        read_planes([parse(str(tmp_path / "notes.tiff"))])
    color = np.stack([IMAGE, IMAGE + 1, IMAGE + 2], axis=-1)
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(color))
    with pytest.raises(InputError, match="say which channel"):
        read_planes([parse(str(tmp_path / "rgb.png"))])
    green = read_planes([parse(f"{tmp_path}/rgb.png#channel=1")])[0]
    assert np.array_equal(green, IMAGE + 1)
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([IMAGE, IMAGE + 9]), photometric="minisblack")
    with pytest.raises(InputError, match="holds 2 planes"):
        read_planes([parse(str(tmp_path / "pages.tif"))])
    second = read_planes([parse(f"{tmp_path}/pages.tif#page=1")])[0]
    assert np.array_equal(second, IMAGE + 9)
    with pytest.raises(InputError, match="beyond the 2"):
        read_planes([parse(f"{tmp_path}/pages.tif#page=2")])


def test_ome_tiff_stacks(tmp_path: Path) -> None:
    for well, start in (("A01", 0), ("P24", 50)):
        stack = np.stack([[IMAGE + start + 10 * z + c for z in range(2)] for c in range(3)])
        (tmp_path / "Plate7").mkdir(exist_ok=True)
        tifffile.imwrite(
            tmp_path / "Plate7" / f"{well}_s2.ome.tiff",
            stack.astype(np.uint16),
            metadata={"axes": "CZYX", "Channel": {"Name": ["DNA", "ER", "Mito"]}},
        )
    with pytest.raises(InputError, match=r"A01_s2.ome.tiff holds 2 z-planes; choose one with"):
        open_screen(str(tmp_path))
    index = open_screen(str(tmp_path), plane=0)
    assert index.channels == ("DNA", "ER", "Mito")
    assert index.table["Metadata_Plate"].tolist() == ["Plate7"] * 2
    assert index.table["Metadata_Site"].tolist() == ["2"] * 2
    site = read_site(index, 1, ["Mito", "DNA"])
    assert np.array_equal(site[0], (IMAGE + 50 + 2).astype(np.uint16))
    assert np.array_equal(site[1], (IMAGE + 50).astype(np.uint16))
    highest = read_site(open_screen(str(tmp_path), plane="max"), 1, ["Mito", "DNA"])
    planes = [(IMAGE + 52).astype(np.uint16), (IMAGE + 62).astype(np.uint16)]
    assert np.array_equal(highest[0], np.max(planes, axis=0))
    mean = read_site(open_screen(str(tmp_path), plane="mean"), 1, ["Mito", "DNA"])
    planes = [(IMAGE + 50).astype(np.uint16), (IMAGE + 60).astype(np.uint16)]
    assert np.array_equal(mean[1], np.rint(np.mean(planes, axis=0)))
    deep = parse(f"{tmp_path}/Plate7/A01_s2.ome.tiff#channel=2&z=1")
    assert np.array_equal(read_planes([deep])[0], (IMAGE + 12).astype(np.uint16))


def test_imagexpress(shared_data: Path) -> None:
    index = open_screen(str(shared_data / "imagexpress_faim"), channel_names=["A", "B", "C"])
    assert index.channels == ("A", "B", "C")
    assert index.table["Metadata_Plate"].tolist() == ["1334"] * 4
    assert index.table["Metadata_PlateName"].tolist() == ["Projection-Mix"] * 4
    assert index.table["Metadata_Well"].tolist() == ["E07", "E07", "E08", "E08"]
    assert index.table["Metadata_Site"].tolist() == ["1", "2", "1", "2"]
    assert read_site(index, 2).shape == (3, 512, 512)
    assert {p.category for p in check_index(index).errors} == set()


def _png(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.full((16, 16), value, np.uint8)))


def test_rxrx1(tmp_path: Path) -> None:
    rows = []
    for experiment in ("HUVEC-1", "U2OS-03"):
        for site in (1, 2):
            for channel in range(1, 7):
                path = tmp_path / "images" / experiment / "Plate1" / f"M23_s{site}_w{channel}.png"
                _png(path, 10 * site + channel)
        rows.append(
            {
                "well_id": f"{experiment}_1_M23",
                "experiment": experiment,
                "plate": 1,
                "well": "M23",
                "well_type": "negative_control",
                "sirna": "EMPTY",
            }
        )
    annotation = tmp_path / "metadata.csv"
    pd.DataFrame(rows).to_csv(annotation, index=False)
    names = ["nuclei", "ER", "actin", "nucleoli", "mito", "golgi"]
    index = open_screen(str(tmp_path), channel_names=names, metadata=str(annotation))
    assert index.channels == tuple(names)
    assert index.table["Metadata_Experiment"].tolist() == ["HUVEC-1"] * 2 + ["U2OS-03"] * 2
    assert set(index.table["Metadata_Plate"]) == {"1"}
    assert set(index.table["Metadata_Source"]) == {"rxrx1"}
    assert set(index.table["Metadata_ControlType"]) == {"negcon"}
    assert set(index.table["Metadata_Perturbation"]) == {"EMPTY"}
    assert read_site(index, 1, ["golgi", "nuclei"])[:, 0, 0].tolist() == [26, 21]


def test_rxrx3(tmp_path: Path) -> None:
    # The rows are those of the data set's own description.
    for plate, well in (
        ("gene-079/Plate8", "H29"), ("gene-060/Plate9", "P28"),
        ("compound-001/Plate11", "U08"), ("compound-004/Plate43", "B08"),
        ("compound-001/Plate19", "D20"),
    ):  # fmt: skip
        for channel in range(1, 7):
            _png(tmp_path / "images" / plate / f"{well}_s1_w{channel}.png", channel)
    annotation = tmp_path / "metadata_rxrx3.csv"
    annotation.write_text(
        "well_id,experiment_name,plate,address,gene,treatment,SMILES,concentration,"
        "perturbation_type,cell_type\n"
        "gene-079_8_H29,gene-079,8,H29,RPLP2,RPLP2_guide_4,,,CRISPR,HUVEC\n"
        "gene-060_9_P28,gene-060,9,P28,EMPTY_control,EMPTY_control,,,CRISPR,HUVEC\n"
        "compound-001_11_U08,compound-001,11,U08,,EMPTY_control,,,COMPOUND,HUVEC\n"
        "compound-004_43_B08,compound-004,43,B08,,CRISPR_control,,,COMPOUND,HUVEC\n"
        'compound-001_19_D20,compound-001,19,D20,,Dequalinium,"CC1=[N+](C)C |c:1,13|",0.25,'
        "COMPOUND,HUVEC\n"
    )
    assert guess(str(tmp_path)) == "rxrx3"
    index = open_screen(str(tmp_path), metadata=str(annotation))
    assert index.channels == ("DNA", "ER", "Actin", "RNA", "Mito", "Golgi")
    assert set(index.table["Metadata_Source"]) == {"rxrx3"}
    table = index.table.set_index("Metadata_Well")
    columns = ["Metadata_Perturbation", "Metadata_Gene", "Metadata_ControlType"]
    assert table.loc["H29", columns].tolist() == ["RPLP2_guide_4", "RPLP2", ""]
    assert table.loc["P28", columns].tolist() == ["EMPTY_control", "", "negcon"]
    assert table.loc["U08", columns].tolist() == ["EMPTY_control", "", "negcon"]
    assert table.loc["B08", columns].tolist() == ["CRISPR_control", "", "control"]
    assert table.loc["D20", columns].tolist() == ["Dequalinium", "", ""]
    assert table.loc["D20", "Metadata_concentration"] == "0.25"
    assert read_site(index, 0)[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_rxrx3_core(tmp_path: Path) -> None:
    for part, experiment in enumerate(("gene-001", "gene-002")):
        rows = []
        for well in ("A01", "AF48"):
            for channel in (3, 1, 2):
                image = np.full((16, 16), 100 * part + 10 * (well == "A01") + channel, np.uint8)
                raw = imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="jp2")
                rows.append(
                    {
                        "__key__": f"{experiment}/Plate1/{well}_s1_{channel}",
                        "jp2": {"bytes": raw, "path": None},
                    }
                )
        pq.write_table(
            pa.Table.from_pylist(rows), tmp_path / f"part-{part}.parquet", row_group_size=4
        )
    assert guess(str(tmp_path)) == guess(str(tmp_path / "part-0.parquet")) == "rxrx3-core"
    index = open_screen(str(tmp_path), channel_names=["DNA", "ER", "Mito"])
    assert index.channels == ("DNA", "ER", "Mito")
    assert len(index) == 4
    table = index.table
    row = table.index[
        (table["Metadata_Experiment"] == "gene-002") & (table["Metadata_Well"] == "A01")
    ][0]
    assert read_site(index, row)[:, 0, 0].tolist() == [111, 112, 113]
    with pytest.raises(InputError, match="has no row 99; it has 6"):
        read_planes([parse(f"{tmp_path}/part-0.parquet#row=99")])
    (tmp_path / "part-0.parquet").write_bytes(b"gone")
    with pytest.raises(InputError, match=r"part-0.parquet is broken"):
        read_planes([parse(f"{tmp_path}/part-0.parquet#row=0")])


def _ome_plate(path: Path, version: str, depth: int = 1) -> np.ndarray:
    """A plate of two wells with two fields each, by zarr-python; axes t, c, z, y, x."""
    three = version == "0.5"
    pixels = RNG.integers(0, 60000, (4, 1, 2, depth, 12, 16), np.uint16)
    plate = zarr.open_group(path, mode="w", zarr_format=3 if three else 2)

    def put(group: zarr.Group, attributes: dict) -> None:
        group.attrs.update({"ome": {"version": version, **attributes}} if three else attributes)

    wells = ["A/1", "B/12"]
    put(
        plate,
        {
            "plate": {
                "name": "P7",
                "wells": [{"path": w, "rowIndex": 0, "columnIndex": 0} for w in wells],
            }
        },
    )
    for place, well in enumerate(wells):
        group = plate.require_group(well)
        put(group, {"well": {"images": [{"path": "0"}, {"path": "1"}]}})
        for field in range(2):
            image = group.require_group(str(field))
            axes = [{"name": n} for n in "tczyx"]
            put(
                image,
                {
                    "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
                    "omero": {"channels": [{"label": "DNA"}, {"label": "Mito"}]},
                },
            )
            data = pixels[2 * place + field]
            array = image.create_array(
                "0", shape=data.shape, chunks=(1, 1, 1, 8, 8), dtype="uint16"
            )
            array[:] = data
    return pixels


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_plates(version: str, tmp_path: Path) -> None:
    pixels = _ome_plate(tmp_path / "plates" / "one.zarr", version)
    for source in ("plates", "plates/one.zarr"):
        index = open_screen(str(tmp_path / source))
        assert index.channels == ("DNA", "Mito")
        assert index.table["Metadata_Plate"].tolist() == ["P7"] * 4
        assert index.table["Metadata_Well"].tolist() == ["A01", "A01", "B12", "B12"]
        assert index.table["Metadata_Site"].tolist() == ["1", "2", "1", "2"]
        for row in range(4):
            assert np.array_equal(read_site(index, row), pixels[row, 0, :, 0])
        assert np.array_equal(read_site(index, 3, ["Mito"])[0], pixels[3, 0, 1, 0])
    places = index.image_uris(2)
    window, array = np.empty((2, 7, 9), np.uint16), open_array(places[0].path)
    read_window_async(places, array, 3, 5, window)()
    assert np.array_equal(window, pixels[2, 0, :, 0, 3:10, 5:14])
    read_window_async(places[::-1], array, 3, 5, window)()
    assert np.array_equal(window, pixels[2, 0, ::-1, 0, 3:10, 5:14])
    with pytest.raises(InputError, match="has no window"):
        read_window_async(places, array, 8, 5, window)


def test_ome_zarr_with_depth_and_without_names(tmp_path: Path) -> None:
    pixels = _ome_plate(tmp_path / "one.zarr", "0.4", depth=3)
    with pytest.raises(InputError, match="3 z positions; choose one with --plane"):
        open_screen(str(tmp_path / "one.zarr"))
    index = open_screen(str(tmp_path / "one.zarr"), plane=2, channel_names=["blue", "red"])
    assert index.channels == ("blue", "red")
    assert np.array_equal(read_site(index, 1), pixels[1, 0, :, 2])
    highest = open_screen(str(tmp_path / "one.zarr"), plane="max")
    assert np.array_equal(read_site(highest, 1), pixels[1, 0].max(axis=1))
    mean = open_screen(str(tmp_path / "one.zarr"), plane="mean")
    assert np.array_equal(read_site(mean, 0), np.rint(pixels[0, 0].mean(axis=1)))
    attributes = tmp_path / "one.zarr" / "A" / "1" / "0" / ".zattrs"
    said = json.loads(attributes.read_text())
    del said["omero"]
    attributes.write_text(json.dumps(said))
    with pytest.raises(InputError, match="2 channels and 0 names"):
        open_screen(str(tmp_path / "one.zarr"), plane=0)


def test_ome_zarr_over_fsspec(tmp_path: Path) -> None:
    pixels = _ome_plate(tmp_path / "one.zarr", "0.5")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "one.zarr"), "/zarrs/one.zarr", recursive=True)
    try:
        index = open_screen("memory://zarrs/one.zarr")
        assert np.array_equal(read_site(index, 3), pixels[3, 0, :, 0])
        assert len(open_screen("memory://zarrs")) == 4
    finally:
        memory.rm("/zarrs", recursive=True)


def test_broken_zarr(tmp_path: Path) -> None:
    _ome_plate(tmp_path / "one.zarr", "0.4")
    index = open_screen(str(tmp_path / "one.zarr"))
    chunk = tmp_path / "one.zarr" / "B" / "12" / "0" / "0" / "0.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(InputError, match=r"B/12/0/0 is broken or cannot be read"):
        read_site(index, 2)
    report = check_index(index)
    assert {p.category for p in report.errors} == {"broken file"}
    with pytest.raises(InputError, match=r"none.zarr/0 does not exist"):
        read_planes([parse(f"{tmp_path}/none.zarr/0#index=0")])


def test_plain_zarr_array(shared_data: Path) -> None:
    folder = shared_data / "jump_rab30_mini"
    names = pd.read_csv(folder / "channels.csv")["channel"].tolist()
    index = open_screen(
        str(folder / "images.zarr" / "images"),
        metadata=str(folder / "sites.csv"),
        channel_names=names,
    )
    assert index.channels == ("AGP", "DNA", "ER", "Mito", "RNA")
    assert index.table["Metadata_Source"].tolist() == ["source_4", "source_13"]
    assert index.table["Metadata_Experiment"].tolist() == ["2021_06_07_Batch5", "20220914_Run1"]
    expected = zarr.open_array(folder / "images.zarr" / "images", mode="r")[1, 1]
    assert np.array_equal(read_site(index, 1, ["DNA"])[0], expected)


def test_own_pattern(tmp_path: Path) -> None:
    for plate in ("x", "y"):
        for channel in ("dapi", "gfp"):
            _png(tmp_path / f"run_{plate}" / f"{channel}-b3-f2.png", len(channel))
    pattern = r"run_(?P<plate>\w)/(?P<channel>\w+)-(?P<well>\w\d)-f(?P<site>\d)"
    index = open_screen(str(tmp_path), pattern=pattern)
    assert index.channels == ("dapi", "gfp")
    assert index.table["Metadata_Plate"].tolist() == ["x", "y"]
    assert index.table["Metadata_Well"].tolist() == ["B03"] * 2
    with pytest.raises(InputError, match="must name the well"):
        open_screen(str(tmp_path), pattern="(?P<plate>x)")
    with pytest.raises(InputError, match="not a regular expression"):
        open_screen(str(tmp_path), pattern="(?P<well>(")


def test_illumination_is_divided_out(screen: Callable[..., Path]) -> None:
    path = screen()
    plain = read_loaddata(str(path))
    with pytest.raises(InputError, match="names no illumination functions"):
        with_illumination(plain)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    (path.parent / "illum & co").mkdir()
    function = np.linspace(1, 3, 24 * 24).reshape(24, 24)
    for channel in ("DNA", "ER", "Mito"):
        np.save(path.parent / "illum & co" / f"{channel}.npy", function)
        table[f"FileName_Illum{channel}"] = f"{channel}.npy"
        table[f"PathName_Illum{channel}"] = "illum & co"
    table.to_csv(path, index=False)
    index = with_illumination(read_loaddata(str(path)))
    corrected = read_site(index, 4)
    assert corrected.dtype == np.uint16
    assert np.array_equal(corrected, np.rint(read_site(plain, 4) / function).astype(np.uint16))
    np.save(path.parent / "illum & co" / "ER.npy", function[1:])
    from mae_jax.data import illumination

    illumination._function.cache_clear()
    with pytest.raises(InputError, match=r"ER.npy has \(23, 24\) pixels"):
        read_site(index, 4)
