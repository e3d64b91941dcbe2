from pathlib import Path

import pandas as pd
import pytest

from mae_jax.cli.main import main
from mae_jax.files import read_json
from mae_jax.synth.screen import DRAWING_VERSION

SMALL = ["--genes", "3", "--controls", "1", "--plates", "1", "--experiments", "1"]
SMALL += ["--image-size", "40", "--quiet", "--processes", "1"]


def test_the_command_draws_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "screen")
    assert main(["synth", "--out", out, "--seed", "4", "--channels", "rxrx", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "screen" / "load_data.csv")
    config = read_json(tmp_path / "screen" / "screen.json")
    assert config["seed"] == 4
    assert config["drawing_version"] == DRAWING_VERSION
    assert config["channels"] == ["DNA", "ER", "Actin", "RNA", "Mito", "Golgi"]
    assert len(pd.read_csv(tmp_path / "screen" / "load_data.csv")) == 3 * 2 + 1


def test_wrong_values_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synth", "--out", str(tmp_path / "s"), "--channels", "DNA,Actine", *SMALL]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'Actin'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["synth", "--help"])
    assert "mae-jax synth --out runs/screen --seed 0" in capsys.readouterr().out
