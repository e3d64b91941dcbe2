"""Folders of instruments in their own layouts: Harmony's index, Yokogawa, CellProfiler's SBS."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.data import open_screen
from mae_jax.data.images import read_site
from mae_jax.errors import InputError

_V5 = """<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData Version="1" xmlns="http://www.perkinelmer.com/PEHH/HarmonyV5">
<Plates><Plate><PlateID>0042</PlateID><Name>BR0042</Name><PlateRows>16</PlateRows>
<Well id="0203" /></Plate></Plates>
<Wells><Well><id>0203</id><Row>2</Row><Col>3</Col><Image id="0203K1F1P1R1" /></Well></Wells>
<Images>{images}</Images></EvaluationInputData>"""
_V7 = """<?xml version="1.0" encoding="utf-8"?>
<EvaluationInputData Version="2" xmlns="43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7">
<Plates><Plate><PlateID>P7</PlateID></Plate></Plates>
<Maps><Map><Entry ChannelID="2"><FlatfieldProfile>x</FlatfieldProfile></Entry></Map>
<Map><Entry ChannelID="1"><ChannelName>HOECHST 33342</ChannelName></Entry>
<Entry ChannelID="2"><ChannelName>Alexa 488</ChannelName></Entry></Map></Maps>
<Images>{images}</Images></EvaluationInputData>"""


def _harmony(root: Path, template: str, *, planes: int = 1, named: bool = True) -> Path:
    """Row 2, column 3, fields 1 and 2; channel c of plane p has the value 100·c + p."""
    texts = []
    for site in (1, 2):
        for plane in range(1, planes + 1):
            for channel, name in ((1, "HOECHST 33342"), (2, "Alexa 488")):
                url = f"r02c03f{site:02d}p{plane:02d}-ch{channel}sk1fk1fl1.tiff"
                (root / "Images").mkdir(parents=True, exist_ok=True)
                value = np.full((6, 8), 100 * channel + plane, np.uint16)
                tifffile.imwrite(root / "Images" / url, value)
                own = f"<ChannelName>{name}</ChannelName>" if named else ""
                texts.append(
                    f'<Image Version="1"><id>x</id><State>Ok</State><URL>{url}</URL><Row>2</Row>'
                    f"<Col>3</Col><FieldID>{site}</FieldID><PlaneID>{plane}</PlaneID>"
                    f"<TimepointID>0</TimepointID><ChannelID>{channel}</ChannelID>{own}</Image>"
                )
    return root / "Images", template.format(images="\n".join(texts))


@pytest.mark.parametrize("version", ["v5", "v7"])
def test_names_come_from_harmonys_index(tmp_path: Path, version: str) -> None:
    template, name = (_V5, "Index.idx.xml") if version == "v5" else (_V7, "Index.xml")
    folder, text = _harmony(tmp_path / "x__2020", template, named=version == "v5")
    (folder / name).write_text(text)
    index = open_screen(str(tmp_path))
    assert index.channels == ("HOECHST 33342", "Alexa 488")
    plate = "BR0042" if version == "v5" else "P7"
    assert index.table["Metadata_Plate"].tolist() == [plate] * 2
    assert index.table["Metadata_Well"].tolist() == ["B03"] * 2
    assert index.table["Metadata_Site"].tolist() == ["1", "2"]
    assert read_site(index, 1, ["Alexa 488", "HOECHST 33342"])[:, 0, 0].tolist() == [201, 101]
    renamed = open_screen(str(tmp_path), channel_names=["Alexa 488=ER"])
    assert renamed.channels == ("HOECHST 33342", "ER")


def test_planes_of_files_are_chosen_or_projected(tmp_path: Path) -> None:
    folder, text = _harmony(tmp_path, _V5, planes=3)
    (folder / "Index.idx.xml").write_text(text)
    with pytest.raises(InputError, match=r"several values of z \(1, 2, 3\).*--plane max or mean"):
        open_screen(str(tmp_path))
    assert read_site(open_screen(str(tmp_path), plane=3), 0)[:, 0, 0].tolist() == [103, 203]
    highest = open_screen(str(tmp_path), plane="max")
    assert read_site(highest, 0)[:, 0, 0].tolist() == [103, 203]
    out = highest.write(tmp_path / "index.parquet")  # the paths of the planes move with the index
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    shutil.move(tmp_path, moved)
    assert read_site(open_screen(str(moved / out.name)), 0)[:, 0, 0].tolist() == [103, 203]
    mean = open_screen(str(moved), plane="mean")
    assert read_site(mean, 1)[:, 0, 0].tolist() == [102, 202]


def test_an_incomplete_or_broken_harmony_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, text = _harmony(tmp_path, _V5)
    (folder / "Index.idx.xml").write_text(text)
    (folder / "r02c03f02p01-ch1sk1fk1fl1.tiff").unlink()
    index = open_screen(str(tmp_path))
    assert [len(names) for names, _ in index.sites] == [2, 1]
    assert "1 of 4 images that Harmony's index lists are not there" in caplog.text
    (folder / "Index.idx.xml").write_text(text[:-40])
    with pytest.raises(InputError, match=r"Index\.idx\.xml is not valid XML"):
        open_screen(str(tmp_path))
    (folder / "Index.idx.xml").write_text(text.replace("<Row>2</Row>", "<Row>two</Row>"))
    with pytest.raises(InputError, match="without a proper row"):
        open_screen(str(tmp_path))
    for path in folder.glob("*.tiff"):
        path.unlink()
    (folder / "Index.idx.xml").write_text(text)
    with pytest.raises(InputError, match="lists 4 images, and none of them is there"):
        open_screen(str(tmp_path))


_MES = """<?xml version="1.0" encoding="utf-8"?>
<bts:MeasurementSetting xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0">
<bts:ChannelList>
<bts:Channel bts:Ch="1" bts:Target="DNA" bts:Objective="20x" bts:Acquisition="BP445/45" />
<bts:Channel bts:Ch="2" bts:Target="{second}" bts:Acquisition="BP525/50" />
</bts:ChannelList></bts:MeasurementSetting>"""


def test_yokogawa(tmp_path: Path) -> None:
    folder = tmp_path / "20210614T090000_PL1"
    folder.mkdir()
    for well in ("B03", "AF48"):
        for channel in (1, 2):
            for z in (1, 2):
                name = f"PL1_10x_{well}_T0001F002L01A0{channel}Z0{z}C0{channel}.tif"
                tifffile.imwrite(folder / name, np.full((4, 5), 10 * channel + z, np.uint16))
    tifffile.imwrite(folder / "DC_sCMOS #1_CAM1.tif", np.zeros((4, 5), np.uint16))  # dark frame
    index = open_screen(str(tmp_path), plane="max")
    assert index.channels == ("Ch1", "Ch2")
    assert index.table["Metadata_Plate"].tolist() == ["PL1_10x"] * 2
    assert index.table["Metadata_Well"].tolist() == ["AF48", "B03"]
    assert index.table["Metadata_Site"].tolist() == ["2", "2"]
    assert read_site(index, 1)[:, 0, 0].tolist() == [12, 22]
    (folder / "settings.mes").write_text(_MES.format(second="ER"))
    assert open_screen(str(tmp_path), plane=1).channels == ("DNA", "ER")
    (folder / "settings.mes").write_text(_MES.format(second=""))
    assert open_screen(str(tmp_path), plane=1).channels == ("DNA", "Ch2")


def test_plates_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number, plate in enumerate(("BC01", "BC02")):
        (tmp_path / plate).mkdir()
        name = "AssayPlate_Greiner_B03_T0001F001L01A01Z01C01.tif"
        tifffile.imwrite(tmp_path / plate / name, np.full((4, 5), number, np.uint16))
    index = open_screen(str(tmp_path))
    assert index.table["Metadata_Plate"].tolist() == ["BC01", "BC02"]
    assert read_site(index, 1)[0, 0, 0] == 1


def test_sbs(tmp_path: Path) -> None:
    folder = tmp_path / "ExampleSBSImages"
    folder.mkdir()
    for number, (row, column) in enumerate([("A", 1), ("A", 2), ("H", 12)], start=1):
        for channel in (1, 2):
            name = f"Channel{channel}-{number:02d}-{row}-{column:02d}.tif"
            tifffile.imwrite(folder / name, np.full((4, 5), 10 * channel + number, np.uint8))
    index = open_screen(str(folder))
    assert index.table["Metadata_Well"].tolist() == ["A01", "A02", "H12"]
    assert index.table["Metadata_Plate"].tolist() == ["ExampleSBSImages"] * 3
    assert read_site(index, 2, ["Ch2", "Ch1"])[:, 0, 0].tolist() == [23, 13]


def test_cytation_and_in_cell(tmp_path: Path) -> None:
    for well in ("B2", "C11"):
        for number, channel in enumerate(("DAPI", "Texas Red"), start=1):
            image = np.full((4, 5), 10 * number + len(well), np.uint16)
            for name in (
                f"cytation/230101_P1/{well}_01_{number}_3_{channel}_001.tif",
                f"incell/P2/{well[0]} - {int(well[1:]):02d}(fld 3 wv {channel} - {channel}).tif",
            ):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(tmp_path / name, image)
    for folder, plate in (("cytation", "230101_P1"), ("incell", "P2")):
        index = open_screen(str(tmp_path / folder))
        assert index.channels == ("DAPI", "Texas Red")
        assert index.table["Metadata_Plate"].tolist() == [plate] * 2
        assert index.table["Metadata_Well"].tolist() == ["B02", "C11"]
        assert index.table["Metadata_Site"].tolist() == ["3", "3"]
        assert read_site(index, 1, ["Texas Red"])[0, 0, 0] == 23
