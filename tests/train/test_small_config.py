"""The config for one's own screen, from the command line."""

import pytest

from mae_jax.cli.main import main
from mae_jax.distributed import initialize
from mae_jax.files import read_json


@pytest.mark.slow
def test_the_small_config_starts_on_a_cpu(index, tmp_path, monkeypatch, capsys):
    """With everything but the recipe made tiny, and continued from its own model by --from."""
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)
    tiny = [
        *("--config.model.encoder.width=16", "--config.model.encoder.depth=1"),
        *("--config.model.encoder.heads=2", "--config.model.encoder.crop=16"),
        *("--config.model.decoder.width=16", "--config.model.decoder.depth=1"),
        *("--config.model.decoder.heads=2", "--config.model.decoder.cross_heads=2"),
        *("--config.data.batch=16", "--config.data.validation_crops=0", "--config.steps=2"),
        f"--config.data.index={index}",
    ]
    run = tmp_path / "small"
    assert main(["train", "--config", "small", *tiny, "--workdir", str(run)]) == 0
    saved = read_json(run / "config.json")
    assert saved["model"]["encoder"]["channels"] == ["DNA", "ER"]
    assert saved["optimizer"]["grad_accum_steps"] == 1
    assert saved["data"]["scale"] == 65535.0
    own = ["--config.model.encoder.crop=16", *tiny[-4:], "--workdir", str(tmp_path / "more")]
    assert main(["train", "--from", str(run), *own]) == 0
    assert read_json(tmp_path / "more" / "config.json")["model"]["encoder"]["width"] == 16
    capsys.readouterr()
