"""The benchmark of fine-tuning runs on any encoder and screen."""

import importlib.util
from pathlib import Path

import jax
import pytest

from mae_jax.cli.main import main
from mae_jax.data.index import Index
from mae_jax.finetune import FineTuneConfig
from mae_jax.networks.mae.config import ParallelViTConfig
from mae_jax.networks.mae.encoder import MAEEncoder
from mae_jax.networks.registry import init_params
from mae_jax.weights.preprocessing import Preprocessing

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "finetune.py"


@pytest.mark.slow
def test_probe_and_fine_tuning_are_judged_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as `python benchmarks/finetune.py` does
    words = ["--experiments", "1", "--plates", "2", "--genes", "4", "--image-size", "64"]
    assert main(["synth", "--out", str(tmp_path / "screen"), *words, "--quiet"]) == 0
    table = str(tmp_path / "screen" / "load_data.csv")
    assert main(["index", table, "--out", str(tmp_path / "index.parquet")]) == 0
    index = Index.read(tmp_path / "index.parquet")
    config = ParallelViTConfig(
        patch=8, width=16, depth=1, heads=1, channels=index.channels, crop=32
    )
    params = init_params(config, jax.random.key(0))
    encoder = MAEEncoder(config, params, Preprocessing(index.channels, any_channels=True, crop=32))
    spec = importlib.util.spec_from_file_location("finetune_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    index = example.treated(index, 4)
    assert index.table["Metadata_Perturbation"].nunique() == 4
    config = FineTuneConfig(steps=4, batch=8, every=2, crop=32, holdout="plate")
    found = example.run(encoder, index, config, ["linear", "full"])
    assert list(found) == ["linear", "full", "chance"]
    assert found["chance"] == 0.25
    assert 0 <= found["linear"] <= 1
    assert example.run(encoder, index, config, ["linear", "full"]) == found  # nothing is by chance
