"""A job killed at any moment, again and again, on changing shards, loses and doubles nothing."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from mae_jax.data.index import Index
from mae_jax.encoders.baselines import RandomEncoder
from mae_jax.inference import embed_index, read_crops, read_embeddings

KILLS = 20
SCRIPT = Path(__file__).parent / "kill_at_random.py"


def screen(folder: Path, wells: int) -> Index:
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for well in range(wells):
        image = f"{well}.npy"
        np.save(folder / image, rng.integers(0, 999, (8, 16)).astype(np.uint16))
        rows.append(
            {
                "Metadata_Source": "s",
                "Metadata_Experiment": "E",
                "Metadata_Plate": f"P{well // 384}",
                "Metadata_Well": f"{chr(65 + well // 24)}{1 + well % 24:02d}",
                "Metadata_Site": "1",
                "Metadata_Perturbation": "",
                "Metadata_Gene": "",
                "Metadata_ControlType": "",
                "Metadata_Split": "train",
                "Channels": ["DNA"],
                "Images": [image],
            }
        )
    (folder / "7.npy").unlink()  # one broken well among them
    return Index(pd.DataFrame(rows), str(folder))


@pytest.mark.slow
def test_every_well_exactly_once_after_random_kills(tmp_path: Path) -> None:
    index = screen(tmp_path / "screen", wells=300)
    index.write(tmp_path / "index.parquet")
    out = tmp_path / "out"
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "index.parquet", out, str(KILLS), "0"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    killed = int(done.stdout)
    there = len(list((out / "_shards").iterdir()))
    assert killed >= KILLS
    assert 0 < there < 150  # the kills came in the middle of it
    encoder = RandomEncoder(features=4, crop=8)
    options = {"batch_size": 4, "wells_per_shard": 2, "save_crops": True, "progress": False}
    options["devices"] = [jax.local_devices()[0]]
    last = embed_index(encoder, index, out, **options)
    assert last.shards == 150 - there
    assert last.complete
    whole = tmp_path / "whole"
    embed_index(encoder, index, whole, **options)
    metadata, features, _ = read_embeddings(out)
    wanted, truth, _ = read_embeddings(whole)
    assert len(metadata) == 299
    assert not metadata.duplicated().any()
    assert metadata.equals(wanted)
    np.testing.assert_array_equal(features, truth)
    assert sum(len(table) for table, _ in read_crops(out)) == 2 * 299
    assert (out / "_skipped.csv").read_text() == (whole / "_skipped.csv").read_text()
    assert not list((out / ".partial").iterdir())  # what the killed ones left is swept away
