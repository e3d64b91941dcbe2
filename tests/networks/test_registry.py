"""A network from outside the package trains, saves, loads, embeds and plans by its own module."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import mae_jax
from mae_jax import networks
from mae_jax.errors import InputError
from mae_jax.networks.registry import from_json
from mae_jax.networks.vit.config import ViTConfig

TOY = Path(__file__).parent / "toy_network.py"


def mae_jax_cli(*words, cwd):
    """One command in a process of its own, on one device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = str(Path(mae_jax.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "mae_jax.cli.main", *map(str, words)],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    """Four wells of two channels; the second experiment is for validation."""
    folder = tmp_path_factory.mktemp("screen")
    rng = np.random.default_rng(0)
    rows = ["Metadata_Experiment,Metadata_Plate,Metadata_Well,Metadata_Site,"
            "FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER"]  # fmt: skip
    for experiment in ("E1", "E2"):
        for well in ("A01", "A02"):
            names = []
            for channel in ("DNA", "ER"):
                names += [f"{experiment}-{well}-{channel}.tiff", "."]
                image = rng.integers(0, 60000, (24, 24), dtype=np.uint16)
                tifffile.imwrite(folder / names[-2], image)
            rows.append(",".join([experiment, f"{experiment}-P1", well, "1", *names]))
    (folder / "load_data.csv").write_text("\n".join(rows) + "\n")
    words = ("index", "load_data.csv", "--out", "index.parquet", "--validation", "E2")
    assert mae_jax_cli(*words, cwd=folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def run(screen):
    """A run of the toy network, from its own module as config file."""
    words = ("--config", TOY, "--config.data.index=index.parquet", "--workdir", "run")
    result = mae_jax_cli("train", *words, cwd=screen)
    assert result.returncode == 0, result.stderr
    return screen / "run"


def test_it_trains_and_is_saved(run):
    record = json.loads((run / "model" / "config.json").read_text())
    assert record["kind"] == "toy"
    assert record["architecture"]["width"] == 8


def test_it_embeds_once_its_module_is_imported(run, screen):
    words = ("embed", "--encoder", "run/model", "--index", "index.parquet")
    refused = mae_jax_cli(*words, "--out", "refused", cwd=screen)
    assert refused.returncode == 2
    assert "--import" in refused.stderr
    done = mae_jax_cli(*words, "--out", "embeddings", "--import", TOY, cwd=screen)
    assert done.returncode == 0, done.stderr
    (table,) = (pd.read_parquet(path) for path in (screen / "embeddings").glob("*/*.parquet"))
    features = [name for name in table.columns if not name.startswith("Metadata_")]
    assert (len(table), len(features)) == (4, 8)
    assert np.isfinite(table[features].to_numpy()).all()


def test_it_is_planned(screen):
    words = ("plan", "--config", TOY, "--on", "h100-1", "--json")
    result = mae_jax_cli(*words, "--config.data.index=index.parquet", cwd=screen)
    assert result.returncode == 0, result.stderr
    # Encoder and decoder of 32 inputs and a code of 8, forward and backward, for 8 crops.
    products = 2 * 32 * 8
    assert f"{3 * 2 * products * 8:g}" in json.dumps(json.loads(result.stdout))


def test_an_unknown_network_names_its_module_and_imports_nothing(tmp_path):
    record = {"kind": "my_net", "module": "os_that_is_not_there", "architecture": {}}
    with pytest.raises(InputError, match="import that module first"):
        from_json(record, "config.json")


def test_a_name_or_config_that_is_taken_is_refused():
    vit = networks.get("vit")
    with pytest.raises(InputError, match="'vit' is already registered"):
        networks.register(networks.Network("vit", config=int, init=vit.init))
    with pytest.raises(InputError, match="already the config of network 'vit'"):
        networks.register(networks.Network("other", config=ViTConfig, init=vit.init))
    assert networks.get("vit") is vit


def test_an_unknown_name_has_its_nearest():
    with pytest.raises(InputError, match="did you mean 'densenet'"):
        networks.get("dense_net")
