"""Config files with their overrides: what is wrong is named, with its neighbour."""

from pathlib import Path

import pytest

from mae_jax.cli.config_file import load_config
from mae_jax.cli.main import main
from mae_jax.errors import InputError

DEMO = str(Path(__file__).parents[2] / "configs" / "demo.py")


def test_overrides_change_their_key():
    config = load_config(DEMO, ["--config.optimizer.lr=0.5", "--config.steps=7"])
    assert config.optimizer.lr == 0.5
    assert config.steps == 7


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optimizer.lrr=1", "no key 'optimizer.lrr': did you mean 'optimizer.lr'"),
        ("--config.stesp=1", "no key 'stesp': did you mean 'steps'"),
        ("--config.steps=many", "steps=many"),
        ("stray", "'stray' is neither an option nor an override"),
    ],
)
def test_what_is_wrong_is_named(override, words):
    with pytest.raises(InputError, match=words.replace("?", r"\?")):
        load_config(DEMO, [override])


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    words = ["--config", DEMO, "--config.model.encoder.widht=64", "--workdir", str(tmp_path / "r")]
    assert main(["train", *words]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'model.encoder.width'?" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"configs/demos\.py does not exist"):
        load_config("configs/demos.py")
