"""Users' patterns of file names, and the guesses that are offered."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from mae_jax.cli.main import main
from mae_jax.data import open_screen
from mae_jax.data.images import read_site
from mae_jax.data.readers.name_templates import compile_template, guess_template
from mae_jax.errors import InputError


def _png(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.full((4, 6), value, np.uint8)))


@pytest.mark.parametrize(
    ("paths", "template"),
    [
        (
            ["P1/B03_s1_w1.tif", "P1/B03_s2_w2.tif", "P2/C04_s1_w1.tif"],
            "P{Metadata_Plate}/{Metadata_Well}_s{Metadata_Site}_w{channel}.tif",
        ),
        (  # Cellomics
            ["X_A01f00d0.TIF", "X_A02f01d1.TIF"],
            "X_{Metadata_Well}f{Metadata_Site}d{channel}.TIF",
        ),
        (
            ["Exp1/A01_01_DNA.tif", "Exp2/B01_02_Mito.tif"],
            "{Metadata_Plate}/{Metadata_Well}_{Metadata_Site}_{channel}.tif",
        ),
        (
            ["plate 7/well B2/site 3/DAPI.png", "plate 8/well B3/site 1/GFP.png"],
            "plate {Metadata_Plate}/well {Metadata_Well}/site {Metadata_Site}/{channel}.png",
        ),
        (
            ["s_B2_Hoechst33342_3.tif", "s_C2_Alexa488_1.tif"],
            "s_{Metadata_Well}_{channel}_{Metadata_Site}.tif",
        ),
        (["A01-DNA.tif", "A01-ER.tif"], "{Metadata_Well}-{channel}.tif"),
        (  # the channel's number stands beside its name
            ["x_B2_1_1_DAPI.tif", "x_B2_2_1_GFP.tif", "x_B3_1_2_DAPI.tif", "x_B3_2_2_GFP.tif"],
            "x_{Metadata_Well}_*_{Metadata_Site}_{channel}.tif",
        ),
        (["img001_DAPI.tif", "img002_GFP.tif"], "img{sample}_{channel}.tif"),
        (
            ["A01 s1 (AGP).tif", "A02 s2 (DNA).tif"],
            "{Metadata_Well} s{Metadata_Site} ({channel}).tif",
        ),
        (
            ["WellA01_Point3_ChannelAGP.tif", "WellB02_Point4_ChannelDNA.tif"],
            "Well{Metadata_Well}_Point{Metadata_Site}_Channel{channel}.tif",
        ),
        (["cat/001.png", "dog/002.png"], None),
        (["A01_DNA.tif", "B02_DNA_2.tif"], None),
        (["A01_DNA.tif", "B02_DNA.png"], None),
        (["notes.txt"], None),
    ],
)
def test_the_guess_for_a_regular_folder(paths: list[str], template: str | None) -> None:
    assert guess_template(paths) == template
    if template:
        assert all(compile_template(template).expression.search(path) for path in paths)


def test_a_folder_of_unknown_names_is_answered_with_a_pattern_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, well in enumerate(("B2", "B3")):
        for channel in ("DAPI", "GFP"):
            _png(tmp_path / "batch 7" / f"{channel}-{well}-f1.png", 10 * number + len(channel))
    assert main(["index", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "'batch 7/DAPI-B2-f1.png' and 'batch 7/GFP-B3-f1.png'" in message
    offered = "batch 7/{channel}-{Metadata_Well}-f1.png"
    assert f"add --pattern '{offered}', which fits 4 of 4 images." in message
    assert main(["index", str(tmp_path), "--pattern", offered]) == 0
    said = capsys.readouterr().out
    assert "format: pattern" in said
    assert "1 experiments, 1 plates, 2 wells, 2 sites" in said
    assert "channels: DAPI, GFP" in said
    assert "GFP: batch 7/GFP-B2-f1.png" in said
    assert "nothing is written: add --out" in said


def test_fields_stars_and_other_metadata(tmp_path: Path) -> None:
    for site in (1, 2):
        for channel in ("c1", "c2"):
            name = f"b7_P9/dose10_b3_x{site}{channel}_{site}_{channel}.png"
            _png(tmp_path / name, site)
    pattern = "{Metadata_Batch}_{plate}/dose{Metadata_Dose}_{WELL}_*_{field}_{channel}.png"
    index = open_screen(str(tmp_path), pattern=pattern)
    row = index.table.iloc[1]
    columns = ("Experiment", "Plate", "Well", "Site", "Dose")
    assert [row[f"Metadata_{c}"] for c in columns] == ["b7", "P9", "B03", "2", "10"]
    assert index.channels == ("c1", "c2")
    assert (read_site(index, 1) == 2).all()


def test_a_sample_takes_the_place_of_the_well(tmp_path: Path) -> None:
    _png(tmp_path / "tissue 4_DAPI.png", 1)
    _png(tmp_path / "tissue 4_GFP.png", 2)
    index = open_screen(str(tmp_path), pattern="{sample}_{channel}.png")
    assert index.table["Metadata_Well"].tolist() == ["tissue 4"]
    assert not index.has_plates
    out = index.write(tmp_path / "index.parquet")
    assert not open_screen(str(out)).has_plates  # also read again


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{channel}.tif", "must name the well"),
        ("plate.tif", "has no fields; write them in braces"),
        ("{Metadata_Well}_{w-1}.tif", "a brace in '_{w-1}.tif' that is no field"),
        ("{Well}_{Metadata_Well}.tif", "names the well twice"),
        ("{Well}_{1st}.tif", "start its name with a letter"),
        (r"(?P<well>[A-P]\d+", "not a regular expression"),
    ],
)
def test_wrong_patterns(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compile_template(pattern)


def test_a_pattern_that_fits_nothing_names_two_files(tmp_path: Path) -> None:
    _png(tmp_path / "x.png", 1)
    _png(tmp_path / "y_2.png", 1)
    with pytest.raises(InputError, match=r"no file fits --pattern: .* 'x\.png' and 'y_2\.png'"):
        open_screen(str(tmp_path), pattern="{Metadata_Well}_{channel}.tif")
