"""LoadData CSV in the spellings that are met."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.data.images import read_site
from mae_jax.data.readers.loaddata import read_loaddata
from mae_jax.data.readers.open_screen import open_screen
from mae_jax.errors import InputError


def test_metadata_are_strings_with_originals_kept(screen: Callable[..., Path]) -> None:
    table = read_loaddata(str(screen())).table
    first = table.iloc[0]
    assert first["Metadata_Plate"] == "0000"
    assert first["Metadata_Experiment"] == first["Metadata_Batch"] == "E1"
    assert first["Metadata_Well"] == "A01"
    assert first["Metadata_ControlType"] == "negcon"
    assert table.iloc[1]["Metadata_Gene"] == table.iloc[1]["Metadata_gene"] == "GENE1"
    assert set(table["Metadata_Split"]) == {"train"}


def test_pixels_and_order_of_channels(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(size=24)))
    assert index.channels == ("DNA", "ER", "Mito")
    site = read_site(index, 4, ["Mito", "DNA"])
    y, x = np.mgrid[:24, :24]
    assert site.dtype == np.uint16
    assert np.array_equal(site[0], 4000 + 200 + 24 * y + x)
    assert np.array_equal(site[1], 4000 + 24 * y + x)
    with pytest.raises(InputError, match=r"plate 0001, well A02, site 1 has no channel 'RNA'"):
        read_site(index, 4, ["RNA"])


@pytest.mark.parametrize("spelling", ["no Orig", "URL", "file URL", "absolute", "images elsewhere"])
def test_spellings(screen: Callable[..., Path], spelling: str, tmp_path: Path) -> None:
    path = screen()
    expected = read_site(read_loaddata(str(path)), 3)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    images = None
    if spelling == "no Orig":
        table.columns = [c.replace("Orig", "") for c in table.columns]
    elif spelling == "absolute":
        for c in [c for c in table.columns if c.startswith("PathName")]:
            table[c] = str(path.parent) + "/" + table[c]
    elif spelling == "images elsewhere":
        for c in [c for c in table.columns if c.startswith("PathName")]:
            table[c] = "/home/scope/export/" + table[c]
        images = str(path.parent)
        path = tmp_path / "csv" / "load_data.csv"
        path.parent.mkdir()
    else:
        start = f"file:{path.parent}/" if spelling == "file URL" else ""
        for c in [c for c in table.columns if c.startswith("FileName")]:
            where = table.pop(c.replace("FileName", "PathName")) + "/" + table.pop(c)
            table[c.replace("FileName", "URL")] = start + where
    table.to_csv(path, index=False)
    index = read_loaddata(str(path), images=images)
    assert index.channels == ("DNA", "ER", "Mito")
    assert np.array_equal(read_site(index, 3), expected)


def test_illumination_columns_are_no_channels(screen: Callable[..., Path]) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["FileName_IllumDNA"] = "0000_IllumDNA.npy"
    table["PathName_IllumDNA"] = "illum"
    table.to_csv(path, index=False)
    index = read_loaddata(str(path))
    assert index.channels == ("DNA", "ER", "Mito")
    assert list(index.table["Illumination"][0]) == ["illum/0000_IllumDNA.npy", "", ""]


def test_a_row_without_one_channel(screen: Callable[..., Path]) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[2, "FileName_OrigER"] = ""
    table.to_csv(path, index=False)
    index = read_loaddata(str(path))
    assert index.sites[2][0] == ("DNA", "Mito")
    assert read_site(index, 2).shape == (2, 24, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Metadata_Well": "Q99"}, "row 1 of .*'Q99' is not a well name"),
        ({"Metadata_Plate": ""}, "row 1 of .* names no plate"),
        (None, "names no images"),
    ],
)
def test_wrong_tables(
    screen: Callable[..., Path], change: dict[str, str] | None, message: str
) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if change is None:
        table = table[[c for c in table.columns if c.startswith("Metadata")]]
    else:
        table = table.assign(**change)
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        read_loaddata(str(path))


def test_empty_and_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_loaddata(str(tmp_path / "none.csv"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="no table"):
        read_loaddata(str(tmp_path / "empty.csv"))


def test_well_from_row_and_column(screen: Callable[..., Path]) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="Metadata_Well")
    table["Metadata_Row"], table["Metadata_Col"] = "32", "48"
    table.to_csv(path, index=False)
    assert set(read_loaddata(str(path)).table["Metadata_Well"]) == {"AF48"}


def test_cpjump1(shared_data: Path) -> None:
    index = read_loaddata(str(shared_data / "cpjump1_images" / "load_data.csv"))
    assert index.channels == ("Mito", "AGP", "RNA", "ER", "DNA")
    assert index.table["Metadata_Well"].tolist() == ["L09", "D08", "N14", "D14"]
    assert index.table["Metadata_ControlType"].tolist()[-1] == "negcon"
    assert index.table["Metadata_Perturbation"].tolist()[-1] == "DMSO"
    assert set(index.table["Metadata_Experiment"]) == {"2020_11_04_CPJUMP1"}
    site = read_site(index, 3, ["DNA"])
    assert (site.shape, site.dtype) == ((1, 1080, 1080), np.uint16)


def test_images_elsewhere_are_refused_for_an_index(
    screen: Callable[..., Path], tmp_path: Path
) -> None:
    read_loaddata(str(screen())).write(tmp_path / "index.parquet")
    with pytest.raises(InputError, match=r"index\.parquet is no LoadData table.*--images"):
        open_screen(str(tmp_path / "index.parquet"), images=str(tmp_path))
