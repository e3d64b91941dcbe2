"""Folders of images that are named by a pattern."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.data.images import read_site
from mae_jax.data.readers.filename_patterns import PATTERNS, name_channels, read_folder
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.errors import InputError


def _harmony(root: Path, planes: int = 1) -> Path:
    for plate in ("P1__2020-11-08T18_18_00-Measurement 1", "P2"):
        folder = root / plate / "Images"
        folder.mkdir(parents=True)
        for well in ("r01c02", "r16c24"):
            for channel in (1, 2, 10):
                for plane in range(1, planes + 1):
                    image = np.full((8, 8), 100 * channel + plane, np.uint16)
                    name = f"{well}f05p{plane:02d}-ch{channel}sk1fk1fl1.tiff"
                    tifffile.imwrite(folder / name, image)
    return root


def test_harmony(tmp_path: Path) -> None:
    index = open_screen(str(_harmony(tmp_path)), channel_names=["DNA", "ER", "Mito"])
    assert index.channels == ("DNA", "ER", "Mito")  # ch10 comes after ch2
    assert index.table["Metadata_Plate"].tolist() == ["P1", "P1", "P2", "P2"]
    assert index.table["Metadata_Well"].tolist() == ["A02", "P24"] * 2
    assert set(index.table["Metadata_Site"]) == {"5"}
    assert read_site(index, 3, ["Mito", "DNA"])[:, 0, 0].tolist() == [1001, 101]


def test_planes_must_be_chosen(tmp_path: Path) -> None:
    root = str(_harmony(tmp_path, planes=2))
    with pytest.raises(InputError, match=r"several values of z \(01, 02\).*--plane"):
        read_folder(root, PATTERNS["harmony"])
    index = read_folder(root, PATTERNS["harmony"], plane=2)
    assert read_site(index, 0)[:, 0, 0].tolist() == [102, 202, 1002]


def test_names_of_channels() -> None:
    assert name_channels(["1", "02"], []) == {"1": "Ch1", "02": "Ch2"}
    assert name_channels(["1", "02"], ["2=ER"]) == {"1": "Ch1", "02": "ER"}
    with pytest.raises(InputError, match="1 channel names"):
        name_channels(["1", "2"], ["ER"])
    with pytest.raises(InputError, match="no channel 7"):
        name_channels(["1", "2"], ["7=ER"])


def test_nothing_matches(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds no images .*only files such as notes.txt"):
        open_screen(str(tmp_path))
    with pytest.raises(InputError, match="did you mean 'harmony'"):
        open_screen(str(tmp_path), format="harmonie")


def test_platemap_is_joined(tmp_path: Path) -> None:
    root = _harmony(tmp_path / "plates")
    platemap = tmp_path / "map.csv"
    platemap.write_text("well,gene,control_type\na2,,negcon\np24,TP53,\n")
    index = open_screen(
        str(root), metadata=str(platemap), metadata_value={"Metadata_Experiment": "E7"}
    )
    assert index.table["Metadata_Gene"].tolist() == ["", "TP53"] * 2
    assert index.table["Metadata_ControlType"].tolist() == ["negcon", ""] * 2
    assert set(index.table["Metadata_Experiment"]) == {"E7"}
    platemap.write_text("well,gene\na2,A\nA02,B\n")
    with pytest.raises(InputError, match="has conflicting values for well A02"):
        open_screen(str(root), metadata=str(platemap))


def test_eight_channels_of_the_dmso_well(shared_data: Path) -> None:
    folder = shared_data / "cpjump1_images" / "example_images" / "DMSO"
    names = ["Mito", "AGP", "RNA", "ER", "DNA", "BF1", "BF2", "BF3"]
    index = open_screen(
        str(folder), channel_names=names, metadata_value={"Metadata_Plate": "BR00117013"}
    )
    assert index.channels == tuple(names)
    assert index.table[["Metadata_Plate", "Metadata_Well"]].values.tolist() == [
        ["BR00117013", "D14"]
    ]
    assert read_site(index, 0).shape == (8, 1080, 1080)
