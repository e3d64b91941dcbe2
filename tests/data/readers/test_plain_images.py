"""Images that are no wells, and files that hold several channels, pages, planes or times."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data import crop_batches, open_screen
from mae_jax.data.image_uri import parse
from mae_jax.data.images import read_planes, read_site
from mae_jax.data.qc import check_index
from mae_jax.data.readers import slides
from mae_jax.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.ascontiguousarray(image)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    elif path.suffix == ".jpg":
        path.write_bytes(imagecodecs.jpeg8_encode(image, level=100))
    else:
        tifffile.imwrite(path, image)


def test_a_folder_per_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "tissue"
    _write(root / "train" / "tumor" / "a.png", RGB)
    _write(root / "train" / "stroma" / "b.tif", RGB)
    _write(root / "val" / "tumor" / "c.png", np.dstack([RGB, RGB[..., :1]]))  # transparency
    _write(root / "val" / "stroma" / "d.jpg", RGB[..., 0])
    assert main(["index", str(root)]) == 0
    said = capsys.readouterr().out
    assert "format: images" in said
    assert "1 experiments, 1 plates, 4 samples, 4 sites" in said
    index = open_screen(str(root))
    table = index.table.set_index("Metadata_Sample")
    assert table["Metadata_Class"].to_dict() == {
        "a": "tumor", "b": "stroma", "c": "tumor", "d": "stroma",
    }  # fmt: skip
    assert table.loc[["a", "c"], "Metadata_Split"].tolist() == ["train", "validation"]
    assert set(table["Metadata_Plate"]) == {"tissue"}
    channels = {str(name): names for name, (names, _) in zip(table.index, index.sites, strict=True)}
    assert channels["a"] == channels["b"] == channels["c"] == ("Red", "Green", "Blue")
    assert channels["d"] == ("Gray",)
    rows = {name: number for number, name in enumerate(table.index)}
    for number in (rows["a"], rows["b"], rows["c"]):
        green, red = read_site(index, number, ["Green", "Red"])
        assert np.array_equal(green, RGB[..., 1])
        assert np.array_equal(red, RGB[..., 0])
    assert (
        np.abs(read_site(index, rows["d"])[0].astype(int) - RGB[..., 0]).max() < 60
    )  # noise is what JPEG keeps least
    assert index.describe(0) == "sample b, site 1"
    platemap = tmp_path / "labels.csv"
    platemap.write_text("sample,grade\na,3\nd,1\n")
    joined = open_screen(str(root), metadata=str(platemap)).table.set_index("Metadata_Sample")
    assert joined["Metadata_grade"].to_dict() == {"a": "3", "b": "", "c": "", "d": "1"}


def test_equal_names_keep_their_folders(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        _write(tmp_path / kind / "001.png", RGB[..., 0])
    index = open_screen(str(tmp_path))
    assert index.table["Metadata_Sample"].tolist() == ["cat/001", "dog/001"]
    assert index.table["Metadata_Perturbation"].tolist() == ["cat", "dog"]


def test_a_damaged_image_is_listed_with_all_others(tmp_path: Path) -> None:
    for number in range(3):
        _write(tmp_path / f"{number}.png", RGB)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "2.png").write_bytes(b"")
    index = open_screen(str(tmp_path))
    assert len(index) == 3
    messages = [f.message for f in check_index(index).errors]
    assert any("1.png is broken or truncated" in m for m in messages)
    assert any("2.png is empty" in m for m in messages)
    (tmp_path / "0.png").unlink()
    with pytest.raises(InputError, match=r"1\.png is no image or damaged"):
        open_screen(str(tmp_path))


def test_pages_are_channels_or_planes(tmp_path: Path) -> None:
    pages = RNG.integers(0, 999, (3, 6, 8)).astype(np.uint16)
    for well in ("B02", "B03"):
        tifffile.imwrite(tmp_path / f"{well}.tif", pages, photometric="minisblack")
    index = open_screen(str(tmp_path), channel_names=["DNA", "ER", "AGP"])
    assert np.array_equal(read_site(index, 1, ["AGP", "DNA"]), pages[[2, 0]])
    one = open_screen(str(tmp_path), plane=1)
    assert np.array_equal(read_site(one, 0), pages[1:2])
    highest = open_screen(str(tmp_path), plane="max")
    assert np.array_equal(read_site(highest, 0)[0], pages.max(axis=0))


def test_axes_of_imagej_and_times(tmp_path: Path) -> None:
    stack = RNG.integers(0, 999, (2, 3, 2, 6, 8)).astype(np.uint16)  # T, Z, C, Y, X
    path = tmp_path / "P1" / "B02.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(InputError, match="holds 3 z-planes"):
        open_screen(str(tmp_path))
    with pytest.raises(InputError, match="holds 2 time points; choose one with --time"):
        open_screen(str(tmp_path), plane="max")
    with pytest.raises(InputError, match="no time point 2; it has 2, from 0"):
        open_screen(str(tmp_path), plane="max", time=2)
    index = open_screen(str(tmp_path), plane="max", time=1)
    assert index.channels == ("Ch1", "Ch2")
    assert np.array_equal(read_site(index, 0), stack[1].max(axis=0))
    mean = open_screen(str(tmp_path), plane="mean", time=0, channel_names=["DNA", "ER"])
    assert np.array_equal(read_site(mean, 0, ["ER"])[0], np.rint(stack[0, :, 1].mean(axis=0)))


def test_stacks_of_one_channel_named_by_their_files(tmp_path: Path) -> None:
    stack = RNG.integers(0, 999, (4, 6, 8)).astype(np.uint16)
    for channel in (1, 2):
        name = f"x_B02_s1_w{channel}.tif"
        tifffile.imwrite(tmp_path / name, stack + channel, photometric="minisblack")
    with pytest.raises(InputError, match=r"w1\.tif holds 4 planes; choose one with --plane"):
        open_screen(str(tmp_path))
    index = open_screen(str(tmp_path), plane="max")
    assert np.array_equal(read_site(index, 0)[:, 0, 0], stack.max(axis=0)[0, 0] + [1, 2])
    assert np.array_equal(read_site(open_screen(str(tmp_path), plane=3), 0)[1], stack[3] + 2)


def _pyramid(path: Path, image: np.ndarray) -> None:
    options = {"tile": (32, 32), "photometric": "rgb"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1, **options)
        writer.write(image[::4, ::4], subfiletype=1, **options)


def test_a_slide_is_cut_into_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "LARGE", 150)
    monkeypatch.setattr(slides, "REGION", 64)
    image = np.full((200, 160, 3), 240, np.uint8)
    image[80:130, 70:150] = RNG.integers(0, 200, (50, 80, 3))
    _pyramid(tmp_path / "slide.tif", image)
    _write(tmp_path / "small.png", RGB)
    index = open_screen(str(tmp_path))
    table = index.table
    assert table["Metadata_Sample"].value_counts()["small"] == 1
    assert 2 <= table["Metadata_Sample"].value_counts()["slide"] < 12  # background is left out
    seen = np.zeros(image.shape[:2], bool)
    for number in table.index[table["Metadata_Sample"] == "slide"]:
        region = index.image_uris(number)[0].get("region")
        top, left, height, width = map(int, region.split(","))
        assert (height, width) == (64, 64)
        part = image[top : top + 64, left : left + 64]
        assert np.array_equal(read_site(index, number), part.transpose(2, 0, 1))
        assert np.array_equal(read_site(index, number, ["Blue"])[0], part[..., 2])
        seen[top : top + 64, left : left + 64] = True
    assert seen[80:130, 70:150].all()
    batches = crop_batches(index.select(Sample="slide"), crop=32, batch=2, seed=0)
    assert next(iter(batches))["pixels"].shape == (2, 3, 32, 32)
    outside = f"{tmp_path}/slide.tif#channel=0&region=150,0,64,64"
    with pytest.raises(InputError, match="is outside of the image of 200 × 160 pixels"):
        read_planes([parse(outside)])
    with pytest.raises(InputError, match=r"expected top,left,height,width"):
        parse("slide.tif#region=1,2,3")
    raw = (tmp_path / "slide.tif").read_bytes()
    (tmp_path / "slide.tif").write_bytes(raw[: len(raw) // 3])
    with pytest.raises(InputError, match=r"slide\.tif is broken or truncated"):
        read_site(index, 0)


def test_a_slide_without_a_pyramid_is_taken_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "LARGE", 100)
    monkeypatch.setattr(slides, "REGION", 64)
    tifffile.imwrite(tmp_path / "strip.tif", np.zeros((40, 150), np.uint16), tile=(32, 32))
    index = open_screen(str(tmp_path))
    assert [uris[0].partition("=")[2] for _, uris in index.sites] == [
        "0,0,40,64", "0,43,40,64", "0,86,40,64",
    ]  # fmt: skip
    assert read_site(index, 2).shape == (1, 40, 64)
