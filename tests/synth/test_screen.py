import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import tifffile

from mae_jax.errors import InputError
from mae_jax.files import read_json
from mae_jax.synth import ScreenConfig, design, draw_well, make_screen, screen

CONFIG = ScreenConfig(
    experiments=2,
    plates=1,
    genes=4,
    complex_sizes=(2,),
    experiments_per_gene=1,
    wells_per_gene=1,
    controls=2,
    sites=2,
    image_size=48,
)


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "screen"
    assert make_screen(folder, CONFIG, processes=1, progress=False) == folder / "load_data.csv"
    return folder


def test_the_table_leads_to_every_image(finished: Path) -> None:
    table = pd.read_csv(finished / "load_data.csv", dtype=str, keep_default_na=False)
    assert len(table) == 2 * len(design(CONFIG)) == 16
    row = table.iloc[3]
    paths = [
        finished / row[f"PathName_Orig{name}"] / row[f"FileName_Orig{name}"]
        for name in CONFIG.channels
    ]
    where = (row["Metadata_Experiment"], row["Metadata_Plate"], row["Metadata_Well"])
    image = draw_well(CONFIG, *where, int(row["Metadata_Site"]))
    for path, picture in zip(paths, image, strict=True):
        assert (tifffile.imread(path) == picture).all()
    named = {
        f"{row[f'PathName_Orig{name}']}/{row[f'FileName_Orig{name}']}"
        for _, row in table.iterrows()
        for name in CONFIG.channels
    }
    on_disk = {name for name in _contents(finished) if name.endswith(".tiff")}
    assert named == on_disk
    assert len(on_disk) == 16 * 5


def test_names_follow_the_microscope_s(finished: Path) -> None:
    row = pd.read_csv(finished / "load_data.csv").iloc[0]
    assert row["PathName_OrigDNA"] == "images/EXP-1/EXP-1-P1"
    number = int(row["Metadata_Well"][1:])
    letter = ord(row["Metadata_Well"][0]) - 64
    assert row["FileName_OrigMito"] == f"r{letter:02d}c{number:02d}f01-ch5.tiff"


def test_the_truth_and_the_configuration_stand_beside_the_images(finished: Path) -> None:
    pairs = pd.read_csv(finished / "relationships.csv")
    complexes = pd.read_csv(finished / "complexes.csv", keep_default_na=False)
    members = complexes.loc[complexes["Complex"] == "complex-01", "Metadata_Gene"]
    assert pairs.to_numpy().tolist() == [sorted(members)]
    assert len(complexes) == 4
    assert read_json(finished / "screen.json")["image_size"] == 48
    assert not (finished / "drawing.json").exists()


def test_the_number_of_processes_changes_nothing(finished: Path, tmp_path: Path) -> None:
    make_screen(tmp_path / "other", CONFIG, processes=2, progress=False)
    assert _contents(tmp_path / "other") == _contents(finished)


def test_an_interrupted_screen_is_not_complete_and_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "screen"
    written = []
    write = tifffile.imwrite

    def stop_in_the_seventh(path: Path, *args: object, **more: object) -> None:
        written.append(path)
        if len(written) == 7:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(screen.tifffile, "imwrite", stop_in_the_seventh)
        with pytest.raises(KeyboardInterrupt):
            make_screen(folder, CONFIG, processes=1, progress=False)
    assert not (folder / "screen.json").exists()
    assert not (folder / "load_data.csv").exists()
    there = {name: content for name, content in _contents(folder).items() if "tiff" in name}
    assert len(there) == 6
    killed = folder / "images" / "EXP-1" / ".r01.0000.partial.tiff"
    killed.write_bytes(b"half")
    before = {name: (folder / name).stat().st_mtime_ns for name in there}

    make_screen(folder, CONFIG, processes=1, progress=False)
    assert _contents(folder) == _contents(finished)
    # The first site was whole and is left alone.
    kept = [name for name in there if (folder / name).stat().st_mtime_ns == before[name]]
    assert len(kept) >= 5


def test_a_finished_screen_is_left_alone(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "draw_well", None)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    make_screen(finished, CONFIG, progress=False)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_another_configuration_in_the_same_folder_is_refused(finished: Path) -> None:
    with pytest.raises(InputError, match=r"another screen \(it differs in seed\)"):
        make_screen(finished, dataclasses.replace(CONFIG, seed=1), progress=False)


def test_a_screen_of_other_drawing_code_is_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "DRAWING_VERSION", screen.DRAWING_VERSION + 1)
    with pytest.raises(InputError, match="differs in drawing_version"):
        make_screen(finished, CONFIG, progress=False)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="choose another folder"):
        make_screen(tmp_path, CONFIG, progress=False)
