"""A real plate from its files to a page and scores, as a user types it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mae_jax.cli.main import main

CHANNELS = "DNA,ER,RNA,AGP,Mito"


@pytest.mark.slow
def test_real_wells_from_images_to_a_page(shared_data: Path, tmp_path: Path, capsys) -> None:
    images = shared_data / "cpjump1_images"
    out = tmp_path / "work"
    command = ["run", str(images / "load_data.csv"), "--encoder", "intensity", "--out", str(out)]
    assert main([*command, "--channels", CHANNELS]) == 0
    said = capsys.readouterr().out
    for step in ("index", "embed", "report", "view"):
        assert f"$ mae-jax {step} " in said
    page = (out / "report.html").read_text()
    assert all(name in page for name in ("BR00117010", "BR00117013"))
    wells = pd.read_parquet(out / "embeddings")
    assert len(wells) == 4
    features = wells.filter(like="Image_").to_numpy(np.float64)
    assert np.isfinite(features).all()

    cells = ["embed", "--encoder", "intensity", "--index", str(out / "index.parquet")]
    cells += ["--cells", "nuclei", "--crop", "96", "--channels", CHANNELS, "--quiet"]
    assert main([*cells, "--out", str(tmp_path / "cells")]) == 0
    table = pd.read_parquet(tmp_path / "cells")
    counts = table.groupby("Metadata_pert_iname")["Metadata_Cell_Count"].max()
    assert counts["DMSO"] > 80  # about a hundred in the field
    assert counts["FK-866"] < 0.7 * counts["DMSO"]  # the compound is toxic
    assert (tmp_path / "cells_cells.h5ad").stat().st_size > 10_000


@pytest.mark.slow
def test_real_profiles_from_a_table_to_scores(shared_data: Path, tmp_path: Path, capsys) -> None:
    plates = sorted((shared_data / "cpjump1_profiles").glob("BR0011701*.csv.gz"))
    profiles = pd.concat([pd.read_csv(plate) for plate in plates])
    profiles.dropna(axis=1, how="all").to_csv(tmp_path / "profiles.csv", index=False)
    command = ["evaluate", "activity", "--embeddings", str(tmp_path / "profiles.csv"), "--json"]
    command += ["--controls", "Metadata_control_type=negcon", "--experiment", "Metadata_Plate"]
    command += ["--perturbation", "Metadata_broad_sample", "--nan", "features", "--no-page"]
    assert main([*command, "--out", str(tmp_path / "activity")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == 0
    perturbations = pd.read_csv(tmp_path / "activity" / "perturbations.csv")
    assert list(perturbations.columns[:5]) == ["perturbation", "n", "score", "p", "q"]
    assert len(perturbations) == 306
    # About half of the compounds are active; were controls and fit the same, it would be more.
    assert 0.35 < (perturbations["q"] < 0.05).mean() < 0.75
