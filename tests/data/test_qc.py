"""`mae-jax index --check` lists everything at once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.data.qc import check_index
from mae_jax.data.readers.loaddata import read_loaddata


def test_a_whole_screen_passes(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index.parquet"
    argv = ["index", str(screen()), "--out", str(out), "--validation", "E2", "--check"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "2 experiments, 4 plates, 12 wells, 12 sites" in said
    assert "validation: 6 sites of experiment E2" in said
    assert "check passed" in said
    assert main(["index", str(out), "--check"]) == 0


def _break(path: Path) -> None:
    """Every kind of damage in one screen of 12 wells."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    folder = path.parent / "images"
    (folder / "0000" / "a1_s1_DNA.tiff").unlink()
    broken = folder / "0000" / "a2_s1_ER.tiff"
    broken.write_bytes(broken.read_bytes()[:-60])
    (folder / "0000" / "a3_s1_ER.tiff").write_bytes(b"")
    tifffile.imwrite(folder / "0001" / "a1_s1_ER.tiff", np.zeros((24, 20), np.uint16))
    for channel in ("DNA", "ER", "Mito"):  # a well of another size
        tifffile.imwrite(folder / "0001" / f"a2_s1_{channel}.tiff", np.zeros((30, 30), np.uint16))
    tifffile.imwrite(folder / "0001" / "a3_s1_DNA.tiff", np.full((24, 24), 65535, np.uint16))
    table.loc[table["Metadata_Plate"] == "0010", "FileName_OrigMito"] = ""
    table["Metadata_control_type"] = ""
    table = pd.concat([table, table.iloc[[9]]])
    table.to_csv(path, index=False)


def test_everything_is_listed_at_once(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = screen()
    _break(path)
    problems = tmp_path / "problems.csv"
    assert main(["index", str(path), "--check", "--report", str(problems)]) == 2
    listed = pd.read_csv(problems, dtype=str, keep_default_na=False)
    found = listed[listed["level"] == "error"].groupby("category")["message"].apply(list).to_dict()
    assert set(found) == {
        "missing file",
        "broken file",
        "different sizes",
        "lacking channel",
        "duplicate",
    }
    assert len(found["missing file"]) == 1
    assert "a1_s1_DNA.tiff does not exist" in found["missing file"][0]
    assert len(found["broken file"]) == 2
    assert "a2_s1_ER.tiff is broken or truncated" in found["broken file"][0]
    assert "a3_s1_ER.tiff is empty" in found["broken file"][1]
    assert any(
        "different sizes or types: DNA is 24 × 24 uint16 but ER is 24 × 20" in s
        for s in found["different sizes"]
    )
    assert any("1 sites, the first on plate 0001, well A02" in s for s in found["different sizes"])
    assert found["lacking channel"] == [
        "plate 0010 lacks the channel Mito, which other plates have."
    ]
    assert found["duplicate"] == ["plate 0011, well A01, site 1 is listed more than once."]
    notes = listed[listed["level"] == "warning"]
    assert notes["message"].tolist() == [
        "no well is a negative control (Metadata_ControlType = negcon), which batch correction "
        "needs; name the controls in the metadata.",
        "plate 0001, well A03, site 1, channel DNA: 100.00% of the pixels are saturated.",
    ]
    said = capsys.readouterr()
    assert all(sentence in said.out for sentence in listed["message"])
    assert f"{sum(map(len, found.values()))} errors are listed above" in said.err
    assert "Traceback" not in said.err


def test_one_image_for_two_wells(screen: Callable[..., Path]) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[1, "FileName_OrigDNA"] = table.loc[0, "FileName_OrigDNA"]
    table.to_csv(path, index=False)
    report = check_index(read_loaddata(str(path)))
    assert [p.category for p in report.errors] == ["duplicate"]
    assert "has the same image as plate 0000, well A01, site 1" in report.errors[0].message


def test_two_wells_under_one_name(screen: Callable[..., Path]) -> None:
    path = screen(sites=2)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, "Metadata_gene"] = "GENE7"  # site 2 of the second well
    table.to_csv(path, index=False)
    says = [p.message for p in check_index(read_loaddata(str(path))).errors]
    assert says == [
        "plate 0000, well A02 has more than one perturbation ('GENE1', 'GENE7').",
        "plate 0000, well A02 has more than one gene ('GENE1', 'GENE7').",
    ]


def test_measurements(screen: Callable[..., Path]) -> None:
    report = check_index(read_loaddata(str(screen(experiments=1, plates=1, wells=2))))
    dna = report.channels.set_index("channel").loc["DNA"]
    assert (dna["sizes"], dna["types"], dna["images"]) == ("24×24", "uint16", 2)
    assert dna["lowest"] == 0
    assert dna["highest"] == 1000 + 24 * 24 - 1


def test_command_says_what_is_wrong(
    screen: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(screen())
    for argv, message in [
        ([path, "--check", "--metadata-value", "Plate"], "COLUMN=VALUE"),
        ([path, "--check", "--validation", "E9"], "no experiment 'E9'"),
        (["nowhere", "--check"], "nowhere does not exist"),
    ]:
        assert main(["index", *argv]) == 2
        assert message in capsys.readouterr().err


def test_cpjump1(shared_data: Path) -> None:
    report = check_index(read_loaddata(str(shared_data / "cpjump1_images" / "load_data.csv")))
    assert report.errors == ()
    assert set(report.channels["sizes"]) == {"1080×1080"}
    assert report.channels.set_index("channel").loc["RNA", "highest"] == 65535


def test_a_split_inside_an_experiment_leaks(screen: Callable[..., Path]) -> None:
    path = screen()
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["Metadata_Split"] = ["validation"] + ["train"] * (len(table) - 1)
    table.to_csv(path, index=False)
    (problem,) = check_index(read_loaddata(str(path))).errors
    assert problem.message.startswith("experiment E1 is in train and in validation")
    alone = read_loaddata(str(path)).select(Experiment="E1")  # where there is no other way
    assert check_index(alone).errors == ()


def test_a_file_without_an_image_is_broken(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen()))
    victim = Path(index.root) / "images" / "0000" / "a1_s1_ER.tiff"
    victim.write_bytes(victim.read_bytes()[:12])
    (problem,) = check_index(index).errors
    assert problem.category == "broken file"
    assert "a1_s1_ER.tiff is broken or truncated" in problem.message


def test_values_that_no_network_can_use(screen: Callable[..., Path]) -> None:
    index = read_loaddata(str(screen(experiments=1, plates=1, wells=2)))
    folder = Path(index.root) / "images" / "0000"
    for channel in ("DNA", "ER", "Mito"):
        values = np.full((24, 24), 4095, np.uint32)
        tifffile.imwrite(folder / f"a1_s1_{channel}.tiff", values)
        values = np.full((24, 24), np.nan if channel == "DNA" else 1, np.float32)
        tifffile.imwrite(folder / f"a2_s1_{channel}.tiff", values)
    findings = check_index(index).errors
    assert [f.message for f in findings if f.category == "not finite"] == [
        "plate 0000, well A02, site 1, channel DNA: it has values that are NaN or infinite; "
        "write it anew without them."
    ]
    wide = [f for f in findings if f.category == "no scale"]
    assert [f.channel for f in wide] == ["DNA", "ER", "Mito"]
    assert "1 images are uint32 with values from 4095 to 4095" in wide[0].message


def test_images_out_of_reach_are_a_machine_failure(
    screen: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = screen(experiments=1, plates=1, wells=1)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["URL_OrigDNA"] = "http://127.0.0.1:9/a.tiff"  # nobody listens there
    monkeypatch.setenv("MAE_JAX_ATTEMPTS", "1")
    table.to_csv(path, index=False)
    assert main(["index", str(path), "--check"]) == 71
    assert "a.tiff is out of reach after 1 attempts" in capsys.readouterr().out


def test_one_plate_without_controls_is_no_error(
    screen: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = screen(experiments=1, plates=1)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.drop(columns="Metadata_control_type").to_csv(path, index=False)
    assert main(["index", str(path), "--check"]) == 0
    assert "warning: no well is a negative control" in capsys.readouterr().out
