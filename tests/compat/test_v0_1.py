"""Files that version 0.1 wrote still open: index, store, model, run folder, embeddings, fit."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import mae_jax
from mae_jax.cli.main import main
from mae_jax.data import Index, crop_batches
from mae_jax.encoders import load_encoder

ARCHIVE = Path(__file__).parent / "v0.1.tar.gz"


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """A screen of eight sites and what version 0.1 made of it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / "v0.1")  # its index and configs hold relative paths
    return tmp_path / "v0.1"


def test_a_saved_model_embeds_as_it_did(old):
    encoder = load_encoder(old / "run" / "model")
    out = old / "again"
    words = ["--index", "screen/index.parquet", "--pooling", "channel", "--out", str(out)]
    assert main(["embed", "--encoder", "run/model", *words]) == 0
    _, before, _ = mae_jax.read_embeddings(old / "embeddings")
    _, after, names = mae_jax.read_embeddings(out)
    assert len(names) == encoder.width(2, "channel")
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_an_embeddings_folder_is_resumed(old, capsys):
    words = ["--index", "screen/index.parquet", "--pooling", "channel", "--out", "embeddings"]
    before = next((old / "embeddings").glob("parts/*.parquet")).read_bytes()
    assert main(["embed", "--encoder", "run/model", *words, "--quiet"]) == 0
    assert "1 shard was already done" in capsys.readouterr().out
    assert next((old / "embeddings").glob("parts/*.parquet")).read_bytes() == before
    next((old / "embeddings").glob("parts/*.parquet")).unlink()
    assert main(["embed", "--encoder", "run/model", *words, "--quiet"]) == 0
    assert len(list((old / "embeddings").glob("*/*.parquet"))) == 1


def test_a_saved_densenet_loads(old):
    encoder = load_encoder(old / "dense" / "model")
    vectors = encoder.embed(np.ones((2, 2, 16, 16), np.uint16))
    assert vectors.shape == (2, encoder.width(2))


def test_a_store_gives_the_crops_of_its_screen(old):
    batches = [
        crop_batches(Index.read(old / folder / "index.parquet"), batch=4, crop=16, seed=0)
        for folder in ("screen", "store")
    ]
    pixels = [np.asarray(next(each)["pixels"]) for each in batches]
    np.testing.assert_array_equal(*pixels)


def test_embeddings_are_corrected_by_a_saved_fit(old):
    words = ["--embeddings", "embeddings", "--fitted", "fit.npz", "--out", "again.parquet"]
    assert main(["correct", *words]) == 0
    before, after = pd.read_parquet("corrected.parquet"), pd.read_parquet("again.parquet")
    pd.testing.assert_frame_equal(after[before.columns], before, rtol=1e-5)


def test_a_run_resumes(old):
    """From its third step to the sixth, to the parameters that it ended with before."""
    before = load_encoder("run/model")
    shutil.rmtree("run/model")
    shutil.rmtree("run/checkpoints/6")
    command = [sys.executable, "-m", "mae_jax.cli.main", "train", "--workdir", "run"]
    command += ["--config", str(Path(__file__).parent / "v0_1_config.py")]
    # On one device: the batch of 4 does not divide among the tests' eight.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(mae_jax.__file__).parents[1])
    subprocess.run(command, check=True, env=environment)
    after = load_encoder("run/model")
    np.testing.assert_allclose(
        after.params["block_00"]["in_proj"], before.params["block_00"]["in_proj"], atol=1e-6
    )
    np.testing.assert_allclose(after.params["cls_token"], before.params["cls_token"], atol=1e-6)
