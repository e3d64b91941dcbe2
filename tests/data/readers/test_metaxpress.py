"""MetaXpress folders: projections beside z-steps, time points, patterns of one's own."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data.images import read_site
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.errors import InputError

GUID = "E94C24BD-45E4-450A-9919-257C714278F7"


def _write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((8, 8), value, np.uint16))


def _screen(root: Path, plate: str, projected: tuple[int, ...] = (1, 2, 3)) -> Path:
    """Three channels, the third of one plane only."""
    for well in ("E07", "E08"):
        for channel in projected:
            _write(root / plate / f"Mix_{well}_s1_w{channel}{GUID}.tif", channel)
            _write(root / plate / f"Mix_{well}_s1_w{channel}_thumb{GUID}.tif", 99)
        for z in range(1, 12):
            for channel in (1, 2):
                path = root / plate / f"ZStep_{z}" / f"Mix_{well}_s1_w{channel}{GUID}.tif"
                _write(path, 100 * z + channel)
    return root


@pytest.mark.parametrize("plate", ["2023-02-21/1334", "MyPlate"])
def test_projections_are_taken_where_all_images_have_one(plate: str, tmp_path: Path) -> None:
    index = open_screen(str(_screen(tmp_path, plate)))
    assert index.table["Metadata_Plate"].tolist() == [plate.rpartition("/")[2]] * 2
    assert read_site(index, 1)[:, 0, 0].tolist() == [1, 2, 3]
    same = open_screen(str(tmp_path), plane="projection")
    assert same.sites == index.sites


def test_a_plane_can_be_chosen(tmp_path: Path) -> None:
    root = str(_screen(tmp_path, "MyPlate"))
    index = open_screen(root, plane=11)
    assert set(index.table["Metadata_Plate"]) == {"MyPlate"}
    assert read_site(index, 0)[:, 0, 0].tolist() == [1101, 1102, 3]
    with pytest.raises(InputError, match=r"no z 12; it has 1, 2, .*11, projection"):
        open_screen(root, plane=12)


def test_a_choice_is_needed_where_projections_are_lacking(tmp_path: Path) -> None:
    root = str(_screen(tmp_path, "MyPlate", projected=(1, 3)))
    with pytest.raises(InputError, match=r"not every image has a projection.*--plane"):
        open_screen(root)


def test_row_letters_in_a_pattern(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in "BC":
        for channel in (1, 2):
            _write(tmp_path / "P1" / f"x-{row}-03-f1-c{channel}.tif", channel)
    pattern = r"x-(?P<row>[A-Z]+)-(?P<column>\d+)-f(?P<site>\d)-c(?P<channel>\d)\.tif$"
    index = open_screen(str(tmp_path), pattern=pattern)
    assert index.table["Metadata_Well"].tolist() == ["B03", "C03"]
    _write(tmp_path / "P1" / "x-ZZ-03-f1-c1.tif", 1)
    assert main(["index", str(tmp_path), "--pattern", pattern, "--check"]) == 2
    assert "x-ZZ-03-f1-c1.tif: 'ZZ03' is" in capsys.readouterr().err


def test_links_in_a_circle(tmp_path: Path) -> None:
    _screen(tmp_path, "MyPlate")
    (tmp_path / "MyPlate" / "again").symlink_to(tmp_path)
    assert len(open_screen(str(tmp_path)).table) == 2


def test_a_csv_without_metadata(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "a.tif", 1)
    path = tmp_path / "load_data.csv"
    path.write_text("FileName_OrigDNA\na.tif\na.tif\n")
    assert main(["index", str(path), "--check"]) == 2
    assert "row 1 of" in (message := capsys.readouterr().err)
    assert "names no plate" in message
    values = ["Plate=P1", "Well=A01"]
    open_screen(
        str(path), metadata_value={f"Metadata_{v.split('=')[0]}": v.split("=")[1] for v in values}
    )
