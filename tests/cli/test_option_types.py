"""Values that several commands share."""

import argparse

import pytest

from mae_jax.cli.main import main
from mae_jax.cli.option_types import add_screen, comma_list, comma_list_of, screen
from mae_jax.cli.parser import Parser
from mae_jax.errors import InputError


def parser() -> argparse.ArgumentParser:
    made = Parser(prog="mae-jax x")
    made.add_argument("source", nargs="?")
    made.add_argument("--channels", type=comma_list, action="extend")
    made.add_argument("--percentiles", type=comma_list_of(float, 2), default=[0.1, 99.9])
    return made


def error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_values_are_separated_by_commas_and_repeats_add_up():
    args = parser().parse_args(["--channels", "DNA, ER", "--channels", "RNA"])
    assert args.channels == ["DNA", "ER", "RNA"]


def test_an_empty_value_is_an_error_that_shows_the_form(capsys):
    assert "write values as A,B,C" in error(["--channels", "DNA,,ER"], capsys)


@pytest.mark.parametrize("words", ["--channels DNA ER RNA", "--channels=DNA ER RNA"])
def test_spaces_between_values_are_an_error_that_says_commas(words, capsys):
    argv = ["screen", *words.split()]
    assert "separated by commas: --channels DNA,ER,RNA" in error(argv, capsys)


def test_a_positional_after_a_list_is_no_value_of_it():
    args = parser().parse_args(["--channels", "DNA,ER", "screen.csv"])
    assert (args.source, args.channels) == ("screen.csv", ["DNA", "ER"])


def test_values_of_a_type_and_a_number(capsys):
    assert parser().parse_args(["--percentiles", "1,99"]).percentiles == [1.0, 99.0]
    assert "has 3 values; give 2" in error(["--percentiles", "1,2,3"], capsys)
    assert "of type float" in error(["--percentiles", "1,two"], capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate recall --embeddings a b --relationships c --out d",
         "commas: --embeddings a,b"),
        ("evaluate features --train a b --test c,d --out e", "a' has 1 values; give 2"),
        ("reconstruct --encoder m --index i --out o --wells A01 B02 C03",
         "commas: --wells A01,B02,C03"),
        ("reconstruct --model m --index i --out o", "--model is now called --encoder"),
        ("demo --seeds 0 1", "commas: --seeds 0,1"),
    ],
)  # fmt: skip
def test_the_commands_say_so(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_screen_is_positional_or_an_option(tmp_path, capsys):
    made = Parser()
    add_screen(made)
    assert screen(made.parse_args(["a.parquet"])) == "a.parquet"
    assert screen(made.parse_args(["--index", "a.parquet"])) == "a.parquet"
    with pytest.raises(InputError, match="no screen is given"):
        screen(made.parse_args([]))
    words = ["reconstruct", "--encoder", "m", "--index", "i", "--out", str(tmp_path)]
    assert main([*words, "--wells", "A01", "B02"]) == 2  # B02 would be the screen
    assert "two screens are given, B02 and i" in capsys.readouterr().err
