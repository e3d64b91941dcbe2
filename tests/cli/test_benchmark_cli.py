"""`mae-jax benchmark` as a user types it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.cli.main import main
from mae_jax.evaluation import Profiles

PLATE, WELL = "Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """BBBC021's files for four compounds in two weeks, and a table of embeddings."""
    rows = [
        (f"Week{week}_{week}", f"{row}{column:02d}", compound, dose)
        for week in (1, 2)
        for row, compound in (("B", f"a{week}"), ("C", f"b{week}"), ("D", "DMSO"))
        for column, dose in ((2, 1.0 if compound != "DMSO" else 0.0), (3, 0.0))
        if dose or compound == "DMSO"
    ]
    images = pd.DataFrame(rows, columns=[PLATE, WELL, "Image_Metadata_Compound", "dose"])
    images = images.rename(columns={"dose": "Image_Metadata_Concentration"})
    images.to_csv(tmp_path / "BBBC021_v1_image.csv", index=False)
    moa = [(f"{c}{w}", 1.0, c.upper()) for c in "ab" for w in (1, 2)] + [("DMSO", 0.0, "DMSO")]
    table = pd.DataFrame(moa, columns=["compound", "concentration", "moa"])
    table.to_csv(tmp_path / "BBBC021_v1_moa.csv", index=False)
    rng = np.random.default_rng(0)
    metadata = images[[PLATE, WELL]].set_axis(["Metadata_Plate", "Metadata_Well"], axis=1)
    features = rng.standard_normal((len(images), 4)).astype(np.float32)
    Profiles(metadata.astype(str), features, tuple("wxyz")).write(tmp_path / "emb.parquet")
    return tmp_path


def test_tables_figures_and_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    command = ["benchmark", "bbbc021", "--metadata", str(folder), "--out", str(out)]
    command += ["--embeddings", f"MAE={folder / 'emb.parquet'},untrained={folder / 'emb.parquet'}"]
    assert main([*command, "--dry-run"]) == 0
    assert not out.exists()
    assert main([*command, "--permutations", "10"]) == 0
    names = {p.name for p in out.iterdir()}
    assert {"scores.csv", "coverage.csv", "NSC.png", "NSCB.png", "index.html"} <= names
    scores = pd.read_csv(out / "scores.csv")
    assert list(scores["model"].unique()[:3]) == ["MAE", "untrained", "cell count"]
    page = (out / "index.html").read_text()
    assert page.index("<h2>Tables</h2>") < page.index("Wells in two dimensions")
    assert "not given: --counts FILE" in page
    assert "Ljosa et al." in page
    assert main(command) == 2  # the folder has results
    assert "--overwrite" in capsys.readouterr().err


def test_missing_wells_end_with_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_parquet(folder / "emb.parquet")
    table.iloc[1:].to_parquet(folder / "few.parquet")
    command = ["benchmark", "bbbc021", "--metadata", str(folder), "--out", str(folder / "out")]
    assert main([*command, "--embeddings", str(folder / "few.parquet")]) == 2
    error = capsys.readouterr().err
    assert "few lacks 1 on 1 plates (Week1_1 B02 …)" in error
    assert "--allow-missing" in error
