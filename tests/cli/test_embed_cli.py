"""`mae-jax embed`, `reconstruct` and `view` as a user types them."""

import csv
import errno
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import tifffile

from mae_jax.cli.main import main
from mae_jax.errors import MACHINE
from mae_jax.inference import read_embeddings
from mae_jax.networks.mae.config import DecoderConfig, MAEConfig, ParallelViTConfig
from mae_jax.networks.mae.model import MAE
from mae_jax.networks.saved_model import save_model
from mae_jax.weights.preprocessing import Preprocessing

CHANNELS = ("DNA", "ER")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = MAEConfig(
        encoder=ParallelViTConfig(patch=8, width=16, depth=1, heads=1, channels=CHANNELS, crop=32),
        decoder=DecoderConfig(width=16, depth=1, heads=1, cross_heads=1),
    )
    key = jax.random.key(0)
    images = jnp.zeros((1, 2, 32, 32))
    params = jax.jit(MAE(config).init)({"params": key, "mask": key}, images)["params"]
    folder = tmp_path_factory.mktemp("model") / "model"
    return save_model(folder, params, config, Preprocessing(CHANNELS, True, 32))


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoadData CSV of five wells with two channels; the fourth lacks an image."""
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(0)
    with (folder / "load_data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        names = ["Source", "Batch", "Plate", "Well", "Site", "control_type"]
        images = [f"{kind}_Orig{c}" for c in CHANNELS for kind in ("FileName", "PathName")]
        rows.writerow([*(f"Metadata_{name}" for name in names), *images])
        for well in range(5):
            values = ["s1", "B1", "P1", f"A{well + 1:02d}", "1", "negcon" if well < 2 else ""]
            for channel in CHANNELS:
                name = f"{well}{channel}.tiff"
                values += [name, "."]
                if not (well == 3 and channel == "ER"):
                    pixels = rng.integers(0, 9999, (32, 64)).astype(np.uint16)
                    tifffile.imwrite(folder / name, pixels)
            rows.writerow(values)
    return folder / "load_data.csv"


def test_shards_of_an_indexed_job(
    model: Path, screen: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = ["embed", "--encoder", str(model), str(screen), "--out", f"{out}.h5ad"]
    words += ["--wells-per-shard", "2", "--batch-size", "2", "--quiet"]
    monkeypatch.setenv("JOB_COMPLETIONS", "2")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert main(words) == 0
    said = capsys.readouterr()
    assert "task 0/2 (Indexed Job)" in said.err
    assert "other tasks are not done yet" in said.out
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 skipped" in said
    assert "skipped.csv" in said
    assert (tmp_path / "out.h5ad").is_file()
    assert len(pd.read_parquet(out)) == 4
    metadata, features, _ = read_embeddings(out)
    assert list(metadata["Metadata_Well"]) == ["A01", "A02", "A03", "A05"]
    assert features.shape == (4, 16)
    assert main(words) == 0
    assert "0 wells embedded" in capsys.readouterr().out
    assert main([*words, "--dtype", "bfloat16"]) == 2  # not the numbers that are there
    assert "another" in capsys.readouterr().err


def test_wrong_input_is_one_sentence(model: Path, screen: Path, tmp_path: Path, capsys) -> None:
    words = ["embed", "--index", str(screen), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--encoder", "intensty"]) == 2
    assert "did you mean 'intensity'?" in capsys.readouterr().err
    assert main([*words, "--encoder", str(model), "--task", "2/2"]) == 2
    assert "task 2/2 does not exist" in capsys.readouterr().err
    assert main([*words, "--encoder", str(model), "--strict"]) == 2
    err = capsys.readouterr().err
    assert "3ER.tiff" in err
    assert err.count("\n") == 1
    assert main([*words, "--encoder", "intensity"]) == 2
    assert "another" in capsys.readouterr().err


def test_a_job_that_embeds_nothing_fails(screen: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(screen, tmp_path)  # without its images
    out = tmp_path / "out"
    words = ["embed", "--index", str(tmp_path / "load_data.csv"), "--out", str(out), "--quiet"]
    words += ["--encoder", "intensity"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "no well could be embedded; the first one is plate P1, well A01" in captured.err
    assert "skipped.csv" in captured.out
    assert main(words) == 2  # and again, where nothing is left to do
    assert "no well could be embedded" in capsys.readouterr().err


def test_a_full_disk_has_the_machines_status(
    screen: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    words = ["embed", "--index", str(screen), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*words, "--encoder", "intensity"]) == MACHINE
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [("--part-wells", "--wells-per-shard"), ("--shard", "--task"), ("--shards", "--num-tasks"),
     ("--batch", "--batch-size")],
)  # fmt: skip
def test_options_of_earlier_versions_name_the_new_one(old: str, new: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["embed", "--encoder", "e", "--index", "i", "--out", "o", old, "2"])
    assert end.value.code == 2
    assert f"{old} is now called {new}" in capsys.readouterr().err


def test_reconstruct(model: Path, screen: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "pictures"
    words = ["reconstruct", "--encoder", str(model), "--index", str(screen), "--out", str(out)]
    assert main([*words, "--mask-ratio", "0.5", "--wells", "A01", "--missing", "ER"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    assert "50 % of the patches" in (out / "index.html").read_text()
    assert {path.name for path in out.glob("*.png")} == {
        "triplets.png",
        "well_P1_A01_1.png",
        "missing_P1_A01_1.png",
    }
    assert main([*words, "--split", "validation", "--overwrite"]) == 2
    assert "validation" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["embed", "reconstruct", "view"])
def test_help_shows_an_example(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"mae-jax {command} --" in capsys.readouterr().out
