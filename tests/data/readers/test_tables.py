"""Sample sheets, folders of LoadData tables, several sources, and platemaps."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data import open_screen
from mae_jax.data.images import read_site
from mae_jax.errors import InputError


def _image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.full((4, 6), value, np.uint16))


def test_nfcore_cellpainting(tmp_path: Path) -> None:
    """The columns of nf-core/cellpainting's own sample sheet."""
    rows = ["channel,path,source,batch,plate,well,site,col,field_id,plane_id,row"]
    for well, row, col in (("A01", 1, 1), ("B01", 2, 1)):
        for site in (1, 2):
            for channel, number in (("RNA", 3), ("DNA", 5)):
                name = f"images/r{row:02d}c{col:02d}f{site:02d}p01-ch{number}sk1fk1fl1.tiff"
                _image(tmp_path / name, 100 * number + 10 * row + site)
                rows.append(
                    f"{channel},{name},source_4,Batch1,BR00117035,{well},{site},{col},{site},1,{row}"
                )
    sheet = tmp_path / "samplesheet.csv"
    sheet.write_text("\n".join(rows) + "\n")
    index = open_screen(str(sheet))
    assert index.channels == ("RNA", "DNA")
    assert index.table["Metadata_Well"].tolist() == ["A01", "A01", "B01", "B01"]
    assert set(index.table["Metadata_Experiment"]) == {"Batch1"}
    assert set(index.table["Metadata_Source"]) == {"source_4"}
    assert read_site(index, 3, ["DNA", "RNA"])[:, 0, 0].tolist() == [522, 322]
    sheet.write_text("\n".join([*rows, rows[-1].replace("B01", "Z99")]))
    with pytest.raises(InputError, match=r"row 9 of .*'Z99' is not a well name"):
        open_screen(str(sheet))


def test_sheets_of_samples(tmp_path: Path) -> None:
    for sample in ("s1", "s2"):
        _image(tmp_path / f"{sample}_n.tif", 1)
        _image(tmp_path / f"{sample}_m.tif", 2)
        stack = np.stack([np.full((4, 6), n, np.uint8) for n in range(3)])
        tifffile.imwrite(tmp_path / f"{sample}.tif", stack, photometric="minisblack")
    sheet = tmp_path / "molkart.csv"
    sheet.write_text("sample,nuclear_image,membrane_image\ns1,s1_n.tif,s1_m.tif\ns2,s2_n.tif,\n")
    index = open_screen(str(sheet))
    assert [names for names, _ in index.sites] == [("nuclear", "membrane"), ("nuclear",)]
    assert not index.has_plates
    sheet = tmp_path / "stacks.csv"
    sheet.write_text("sample,image,treatment\ns1,s1.tif,a\ns2,s2.tif,b\n")
    index = open_screen(str(sheet), channel_names=["DNA", "ER", "AGP"])
    assert read_site(index, 1, ["AGP"])[0, 0, 0] == 2
    assert index.table["Metadata_treatment"].tolist() == ["a", "b"]
    sheet.write_text("image,treatment\ns1.tif,a\n")
    with pytest.raises(InputError, match=r"no column well .* and no column sample"):
        open_screen(str(sheet))


def test_a_folder_of_loaddata_tables(screen: Callable[..., Path], tmp_path: Path) -> None:
    """One table per plate, as JUMP has them; that with illumination is taken, also as Parquet."""
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    path.unlink()
    tables = path.parent / "load_data_csv"
    for number, (plate, rows) in enumerate(table.groupby("Metadata_Plate")):
        folder = tables / "batch" / str(plate)
        folder.mkdir(parents=True)
        if number == 0:
            rows.to_parquet(folder / "load_data_with_illum.parquet")
            rows.head(1).to_csv(folder / "load_data.csv", index=False)
        else:
            rows.to_csv(folder / "load_data.csv.gz", index=False)
    index = open_screen(str(tables), images=str(path.parent))
    assert len(index) == len(table)
    assert index.table["Metadata_Plate"].tolist() == sorted(table["Metadata_Plate"])
    assert read_site(index, 11, ["ER"])[0, 0, 0] == 1000 * 11 + 100


def test_several_sources_become_one_index(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = screen(experiments=1, plates=1)
    for channel in ("DNA", "ER", "Mito"):
        _image(tmp_path / "more" / f"P9_B03_{channel}.tif", 7)
    second = tmp_path / "more" / "load_data.csv"
    pd.DataFrame(
        [{"Metadata_Plate": "P9", "Metadata_Well": "B03",
          **{f"FileName_Orig{c}": f"P9_B03_{c}.tif" for c in ("DNA", "ER", "Mito")}}]
    ).to_csv(second, index=False)  # fmt: skip
    out = tmp_path / "out" / "index.parquet"
    assert main(["index", str(path), str(second), "--out", str(out)]) == 0
    assert "2 experiments, 2 plates, 4 wells, 4 sites" in capsys.readouterr().out
    index = open_screen(str(out))
    assert (read_site(index, 3) == 7).all()
    assert read_site(index, 2, ["DNA"])[0, 0, 0] == 2000
    again = open_screen([str(out), str(second)])
    assert len(again) == 5


def test_platemaps_by_row_and_column(screen: Callable[..., Path], tmp_path: Path) -> None:
    path = str(screen())
    platemap = tmp_path / "map.tsv"
    platemap.write_text("Plate\tRow\tColumn\tDose\n0000\tA\t1\t5\n0000\tA\t02\t10\n")
    index = open_screen(path, metadata=str(platemap))
    assert index.table["Metadata_Dose"].tolist()[:4] == ["5", "10", "", ""]
    other = tmp_path / "map.csv"
    other.write_text("well_row,well_col,Dose\n1,1.0,5\n1,3,7\n")  # numbers; for all plates
    index = open_screen(path, metadata=str(other))
    assert index.table["Metadata_Dose"].tolist() == ["5", "", "7"] * 4
    other.write_text("Row,Column,Dose\nA,99,5\n")
    with pytest.raises(InputError, match="row 'A', column '99' is no well"):
        open_screen(path, metadata=str(other))
    other.write_text("Plate,Well,Dose\nP77,A01,5\n")
    with pytest.raises(InputError, match=r"names none of the images' wells.*it has plate P77"):
        open_screen(path, metadata=str(other))


def test_a_folder_of_platemaps_with_barcodes(screen: Callable[..., Path], tmp_path: Path) -> None:
    """As the Cell Painting Gallery has them below workspace/metadata/platemaps/<batch>."""
    folder = tmp_path / "platemaps"
    (folder / "platemap").mkdir(parents=True)
    (folder / "barcode_platemap.csv").write_text(
        "Assay_Plate_Barcode,Plate_Map_Name\n0000,first\n0001,second\n"
    )
    for name in ("first", "second"):
        (folder / "platemap" / f"{name}.txt").write_text(
            f"plate_map_name\twell_position\tbroad_sample\n{name}\tA02\tBRD-{name}\n"
        )
    index = open_screen(str(screen()), metadata=str(folder))
    wells = index.table.set_index(["Metadata_Plate", "Metadata_Well"])["Metadata_broad_sample"]
    assert wells["0000", "A02"] == "BRD-first"
    assert wells["0001", "A02"] == "BRD-second"
    assert wells["0010", "A02"] == ""
    (folder / "platemap" / "second.txt").unlink()
    with pytest.raises(InputError, match="no platemap second of plate 0001"):
        open_screen(str(screen()), metadata=str(folder))
