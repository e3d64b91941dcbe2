"""`mae-jax train`: what it tells whoever started it."""

from pathlib import Path

import pytest

import mae_jax.train
from mae_jax.cli.main import main
from mae_jax.distributed import initialize

TRAIN = ["train", "--config", str(Path(__file__).parent.parent.parent / "configs" / "demo.py")]


@pytest.fixture
def ends_with(monkeypatch, tmp_path):
    """The status of a training that returns this, with these further options."""
    monkeypatch.setattr(initialize, "enable_compilation_cache", lambda folder: None)

    def status(model: Path | None, *options: str) -> int:
        monkeypatch.setattr(mae_jax.train, "train", lambda config, workdir: model)
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
