"""`mae-jax train`: what it tells whoever started it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import mae_jax.train
from mae_jax.cli.main import main
from mae_jax.config import from_dict, to_dict
from mae_jax.distributed import initialize
from mae_jax.train.config import TrainConfig

TRAIN = ["train", "--config", "demo", "--config.data.index=index.parquet"]


@pytest.fixture
def ends_with(monkeypatch, tmp_path):
    """The status of a training that returns this, with these further options."""
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)

    def status(model: Path | None, *options: str) -> int:
        trainer = SimpleNamespace(fit=lambda: model)
        monkeypatch.setattr(mae_jax.train, "Trainer", lambda config, **options: trainer)
        return main([*TRAIN, "--workdir", str(tmp_path), *options])

    return status


def test_a_finished_training_prints_its_model(ends_with, capsys):
    assert ends_with(Path("runs/mine/model"), "--preempted-exit-code", "75") == 0
    assert capsys.readouterr().out == "runs/mine/model\n"


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--preempted-exit-code", "75"), 75)])
def test_a_stopped_training_ends_with_the_status_asked_for(ends_with, options, code):
    with pytest.raises(SystemExit) as ended:
        ends_with(None, *options)
    assert ended.value.code == code


def test_a_renamed_option_names_the_new_one(ends_with, capsys):
    with pytest.raises(SystemExit) as ended:
        ends_with(None, "--stopped-status", "75")
    assert ended.value.code == 2
    assert "--stopped-status is now called --preempted-exit-code" in capsys.readouterr().err


def test_a_config_is_printed_as_yaml_without_a_workdir(capsys):
    assert main([*TRAIN, "--config.optimizer.lr=1e-5", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    config = from_dict(TrainConfig, printed)
    assert config.data.index == "index.parquet"
    assert config.optimizer.lr == 1e-5
    assert to_dict(config) == printed


def test_all_keys_are_explained(capsys):
    assert main(["train", "--help-config"]) == 0
    shown = capsys.readouterr().out
    assert "optimizer.lr\n    float; default 0.0001; above 0\n" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--config", "demo", "--workdir", "w"], "data.index is empty"),
        (["--config", "demo", "--config.data.index=i.parquet"], "--workdir is missing"),
        ([], "--config is missing"),
        (["--config", "demo", "--config.data.index=no/index.parquet", "--workdir", "w"],
         "no/index.parquet"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)
    assert main(["train", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_run_from_a_model_takes_the_small_config(monkeypatch, tmp_path):
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)
    configs = []

    def trainer(config, **options):
        configs.append(config)
        return SimpleNamespace(fit=lambda: Path("model"))

    monkeypatch.setattr(mae_jax.train, "Trainer", trainer)
    words = ["--from", "runs/other", "--config.data.index=i.parquet", "--workdir", str(tmp_path)]
    assert main(["train", *words]) == 0
    assert main(["train", "--config", "small:muon", *words]) == 0
    assert [config.init_from for config in configs] == ["runs/other"] * 2
    assert [config.optimizer.name for config in configs] == ["lion", "muon"]
    assert configs[0].init_architecture == "own"
    assert configs[0].model.encoder.channels == ("*",)
    assert main(["train", "--config", "small:adamm", *words]) == 2


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_trains_without_a_bar(quiet, tmp_path, monkeypatch):
    given = {}

    class Recorder:
        def __init__(self, config, **options):
            given.update(options)

        def fit(self):
            return tmp_path

    monkeypatch.setattr("mae_jax.train.Trainer", Recorder)
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)
    words = ["train", "--config", "demo", "--config.data.index=i.parquet", "--workdir", "w"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, *["--quiet"] * quiet]) == 0
    assert given["progress"] is not quiet
