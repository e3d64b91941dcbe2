"""The command line's frame: help, unknown commands, errors as one sentence."""

import importlib

import pytest

from mae_jax.cli.main import COMMANDS, main
from mae_jax.errors import InputError


def test_without_words_every_command_is_listed(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"example:\n  mae-jax {name}" in shown


def test_a_misspelt_command_names_its_neighbour(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (InputError("well.tiff is truncated; copy it again."), 2, "well.tiff is truncated"),
        (KeyboardInterrupt(), 130, "goes on from here"),
    ],
)
def test_what_a_command_raises_becomes_a_line_and_a_status(
    raised, status, words, capsys, monkeypatch
):
    command = importlib.import_module("mae_jax.cli.report")

    def run(args):
        raise raised

    monkeypatch.setattr(command, "run", run)
    assert main(["report", "--out", "x.html"]) == status
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
