"""`mae-jax run`: the whole way in one work folder, resumed, repeated and refused."""

import re
import shlex
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile

import mae_jax.inference
from mae_jax.cli.main import main
from mae_jax.cli.run import choose_correction
from mae_jax.data import open_screen
from mae_jax.errors import InputError
from mae_jax.evaluation.correction_spec import DEFAULT
from mae_jax.files import read_json

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plates of eight wells; four wells of each are controls by the platemap."""
    root = tmp_path_factory.mktemp("screen") / "images"
    for number, plate in enumerate(("P1", "P2")):
        (root / plate).mkdir(parents=True)
        for column in range(1, 9):
            for channel in ("DAPI", "GFP"):
                image = RNG.poisson(100 + 50 * number + 10 * column, (32, 32))
                name = f"{plate}_B{column:02d}_{channel}.tif"
                tifffile.imwrite(root / plate / name, image.astype(np.uint16))
    rows = [f"{2},{c},{'DMSO' if c <= 4 else f'drug {c}'}" for c in range(1, 9)]
    (root.parent / "map.csv").write_text("\n".join(["Row,Column,Compound", *rows]) + "\n")
    return root


def _words(plates: Path, out: Path, *more: str) -> list[str]:
    pattern = "{Metadata_Plate}_{Metadata_Well}_{channel}.tif"
    return ["run", str(plates), "--encoder", "intensity", "--out", str(out), "--pattern", pattern,
            "--metadata", str(plates.parent / "map.csv"), *more]  # fmt: skip


def _commands(said: str) -> list[str]:
    return [line[2:] for line in said.splitlines() if line.startswith("$ ")]


def test_the_whole_way_is_interrupted_resumed_and_repeated(
    plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = _words(plates, tmp_path / "work", "--controls", "Compound=DMSO")
    assert main([*words, "--dry-run"]) == 0
    planned = _commands(capsys.readouterr().out)
    assert not (tmp_path / "work").exists()
    steps = [" ".join(shlex.split(line)[1:2]) for line in planned]
    assert steps == ["index", "index", "embed", "correct", "report", "view"]

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mae_jax.inference, "embed_index", interrupt)
        assert main(words) == 130
    assert list(read_json(tmp_path / "work" / "run.json")["steps"]) == ["index", "check"]
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert _commands(said) == planned
    assert said.count("done before") == 2
    corrected = pd.read_parquet(tmp_path / "work" / "corrected.parquet")
    assert len(corrected) == 16
    controls = corrected[corrected["Metadata_Compound"] == "DMSO"]
    numeric = controls.filter(like="Image_")
    by_plate = numeric.groupby(controls["Metadata_Plate"]).mean()
    assert np.abs(by_plate.to_numpy()).max() < 1e-3  # standardized by each plate's controls
    page = (tmp_path / "work" / "report.html").read_text()
    assert "16" in page
    assert "8</b>negative controls" in page
    assert "corrected, by plate" in page
    assert page.count('aria-label="plate P1, distance from the plate') == 1
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # self-contained
    assert main(words) == 0
    assert capsys.readouterr().out.count("done before") == 5


def test_another_command_in_the_same_folder_is_refused_or_redone(
    plates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words(plates, tmp_path / "work")
    assert main(words) == 0
    assert "no well is named as a negative control" in capsys.readouterr().out
    assert not (tmp_path / "work" / "corrected.parquet").exists()
    other = [*words, "--channels", "GFP"]
    assert main(other) == 2
    assert "has the step embed of another command (`mae-jax embed" in capsys.readouterr().err
    assert main([*other, "--overwrite"]) == 0
    assert capsys.readouterr().out.count("done before") == 2
    manifest = (tmp_path / "work" / "embeddings" / "_manifest.json").read_text()
    assert "DAPI" not in manifest


def test_images_that_are_no_wells(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for number in range(2):
            image = RNG.integers(0, 255, (40, 48, 3)).astype(np.uint8)
            path = tmp_path / "pictures" / kind / f"{number}.jpg"
            path.write_bytes(imagecodecs.jpeg8_encode(image))
    out = tmp_path / "work"
    words = ["run", str(tmp_path / "pictures"), "--encoder", "intensity", "--out", str(out)]
    assert main(words) == 0
    index = open_screen(str(out / "index.parquet"))
    assert not index.has_plates
    assert index.channels == ("Red", "Green", "Blue")
    assert index.table["Metadata_Sample"].tolist() == ["cat/0", "cat/1", "dog/0", "dog/1"]
    assert index.table["Metadata_Class"].tolist() == ["cat", "cat", "dog", "dog"]
    assert "4</b>samples" in (out / "report.html").read_text()


def test_the_correction_follows_the_number_of_controls(plates: Path) -> None:
    pattern = "{Metadata_Plate}_{Metadata_Well}_{channel}.tif"
    index = open_screen(str(plates), pattern=pattern, metadata=str(plates.parent / "map.csv"))
    well = index.table["Metadata_Well"]
    plate = index.table["Metadata_Plate"]

    def method(controls: pd.Series) -> str | None:
        table = index.table.assign(Metadata_ControlType=np.where(controls, "negcon", ""))
        return choose_correction(type(index)(table, index.root), None, None)[1]

    assert method(well >= "B01") == DEFAULT
    assert method(well <= "B04") == "standardize-plate"
    assert method(well == "B04") == "center-plate"
    assert method((well == "B04") & (plate == "P1")) is None
    assert choose_correction(index, "Compound=DMSO", "center-plate")[1] == "center-plate"
    assert choose_correction(index, "Compound=DMSO", "none")[1] is None
    for controls, message in (
        ("DMSO", "takes COLUMN=VALUE"),
        ("Compond=DMSO", "did you mean 'Metadata_Compound'"),
        ("Compound=dmso", r"no well has Metadata_Compound = 'dmso'; its values are 'DMSO'"),
    ):
        with pytest.raises(InputError, match=message):
            choose_correction(index, controls, None)
    with pytest.raises(InputError, match="no correction 'tvm'"):
        choose_correction(index, None, "tvm")


def test_a_failed_step_names_its_command(
    plates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words(plates, tmp_path / "work")
    words[words.index("intensity")] = str(tmp_path / "nothing")
    assert main(words) == 2
    message = capsys.readouterr().err
    assert "the step embed failed, as said above: `mae-jax embed --encoder" in message
