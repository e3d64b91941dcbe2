"""Values that several commands share."""

import argparse

import pytest

from mae_jax.cli.option_types import comma_list


def test_values_are_separated_by_commas_and_repeats_add_up():
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=comma_list, action="extend")
    args = parser.parse_args(["--channels", "DNA, ER", "--channels", "RNA"])
    assert args.channels == ["DNA", "ER", "RNA"]


def test_an_empty_value_is_an_error_that_shows_the_form(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=comma_list, action="extend")
    with pytest.raises(SystemExit):
        parser.parse_args(["--channels", "DNA,,ER"])
    assert "write values as A,B,C" in capsys.readouterr().err
