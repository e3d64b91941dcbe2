"""The example of fine-tuning runs on any encoder and screen."""

import importlib.util
from pathlib import Path

import jax
import pytest

from mae_jax.cli.main import main
from mae_jax.data.index import Index
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
    options = {"perturbations": 4, "steps": 4, "batch": 8, "crop": 32}
    found = example.run(encoder, index, **options)
    assert found["chance"] == 0.25
    assert 0 <= found["frozen probe"] <= 1
    assert 0 <= found["fine-tuned"] <= 1
    assert example.run(encoder, index, **options) == found  # nothing is left to chance
