"""Files are whole or absent."""

import json
import os

import pytest

from mae_jax.errors import InputError
from mae_jax.files import read_json, replacing, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_beside(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"version": 1})

    def interrupted() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise RuntimeError("the power went")

    with pytest.raises(RuntimeError):
        interrupted()
    assert json.loads(path.read_text()) == {"version": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    path = tmp_path / "model"
    for version in ("one", "two"):
        with replacing(path) as beside:
            beside.mkdir()
            (beside / version).write_text(version)
    assert [p.name for p in path.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "table.parquet") as beside:
        assert beside.suffix == ".parquet"
        beside.write_text("")


@pytest.mark.parametrize("text", [None, "{not json"])
def test_unreadable_json_is_named(tmp_path, text):
    path = tmp_path / "settings.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"settings\.json"):
        read_json(path)


@pytest.mark.parametrize("text", ["{", "[" * 200_000, "1" * 10_000, '"\\ud800'])
def test_malformed_json_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json is not valid JSON") as problem:
        read_json(path)
    assert "\n" not in str(problem.value)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_json(tmp_path / "a.json")
