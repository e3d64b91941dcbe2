"""What every command has: --json, --quiet, --verbose, --log-level, --overwrite, --dry-run."""

import importlib
import json
import logging
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.cli.launch import build_parser
from mae_jax.cli.main import COMMANDS, command_parser, main
from mae_jax.errors import InputError

OWN = [name for name in COMMANDS if name != "launch"]


def command_lines(text: str) -> list[list[str]]:
    """The command lines of an example, without `mae-jax` and comments."""
    lines = text.replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.startswith("  mae-jax ")]
    lines = [line.partition(" > ")[0].partition(" | ")[0] for line in lines]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if "--help" not in line]


def described(parser) -> list[list[str]]:
    """The examples of a parser and of its sub-commands."""
    inner = [p for a in parser._actions if a.dest in ("evaluation", "target", "verb", "shell")
             for p in (a.choices.values() if isinstance(a.choices, dict) else [])]  # fmt: skip
    return [*command_lines(parser.epilog or ""), *(line for p in inner for line in described(p))]


@pytest.mark.parametrize("name", OWN)
def test_every_example_is_accepted(name):
    lines = described(command_parser(name))
    assert lines
    for command, *words in lines:
        parser = command_parser(command)
        takes_overrides = getattr(
            importlib.import_module(f"mae_jax.cli.{command}"), "TAKES_OVERRIDES", False
        )
        _, rest = parser.parse_known_args([word for word in words if word != "…"])
        assert all(takes_overrides and word.startswith("--config.") for word in rest), rest


def documented() -> list[list[str]]:
    """The command lines of the README and the guides."""
    root = Path(__file__).parents[2]
    lines = []
    for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        for line in path.read_text().replace("\\\n", " ").splitlines():
            if line.startswith("mae-jax "):
                lines += command_lines(f"  {line}")
    return [line for line in lines if line and line[0] in OWN and "…" not in line]


def test_every_documented_command_line_is_accepted():
    parsers = {name: command_parser(name) for name in {line[0] for line in documented()}}
    assert len(parsers) > 5
    for name, *words in documented():
        _, rest = parsers[name].parse_known_args(words)
        assert all(word.startswith("--config.") for word in rest), (name, rest)


def test_every_example_of_the_launchers_is_accepted():
    lines = described(build_parser())
    assert lines
    for _, *words in lines:
        build_parser().parse_args(words[: words.index("--")] if "--" in words else words)


def test_the_result_alone_is_on_stdout_as_json(tmp_path, capsys):
    words = ["synth", "--out", str(tmp_path / "s"), "--genes", "8", "--dry-run", "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert (document["command"], document["status"], document["dry_run"]) == ("synth", 0, True)
    assert "8 genes" in shown.err  # what a reader would see
    assert not (tmp_path / "s").exists()


def test_an_error_is_a_document_too(tmp_path, capsys):
    assert main(["report", "--out", str(tmp_path / "x.html"), "--json"]) == 2
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["status"] == 2
    assert "a report needs --train" in document["error"]
    assert "a report needs --train" in shown.err


def test_values_that_json_does_not_have_become_ones_it_has(capsys, monkeypatch):
    import numpy as np
    import pandas as pd

    command = importlib.import_module("mae_jax.cli.report")
    result = {"nan": float("nan"), "array": np.arange(2), "table": pd.DataFrame({"a": [1.5]})}
    monkeypatch.setattr(command, "run", lambda args: result)
    assert main(["report", "--out", "x.html", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["nan"] is None
    assert (document["array"], document["table"]) == ([0, 1], [{"a": 1.5}])


@pytest.mark.parametrize(
    ("words", "shown"),
    [([], {"warning", "error"}), (["--quiet"], {"error"}), (["--log-level", "error"], {"error"}),
     (["--verbose"], {"info", "warning", "error"}),
     (["--log-level", "debug"], {"debug", "info", "warning", "error"})],
)  # fmt: skip
def test_the_level_of_log_messages(words, shown, capsys, monkeypatch):
    def run(args):
        for level in ("debug", "info", "warning", "error"):
            logging.getLogger("mae_jax.x").log(getattr(logging, level.upper()), "say %s", level)

    monkeypatch.setattr(importlib.import_module("mae_jax.cli.report"), "run", run)
    monkeypatch.setattr(logging.getLogger("mae_jax"), "propagate", "debug" in words)
    assert main(["report", "--out", "x.html", *words]) == 0
    said = capsys.readouterr()
    assert {level for level in ("debug", "info", "warning", "error")
            if f"say {level}" in said.err} == shown  # fmt: skip


def test_verbose_shows_the_traceback_of_an_error(capsys, monkeypatch):
    def run(args):
        raise InputError("the file is empty.")

    monkeypatch.setattr(importlib.import_module("mae_jax.cli.report"), "run", run)
    assert main(["report", "--out", "x.html", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_file_that_exists_is_replaced_only_if_asked_to(tmp_path, capsys):
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert main(["report", "--out", str(out)]) == 2
    assert f"{out} exists; add --overwrite to replace it." in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["report", "--out", str(out), "--overwrite"]) == 2  # for another reason
    assert "a report needs --train" in capsys.readouterr().err


def test_the_demo_shows_its_commands(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "d"), "--seeds", "0,1", "--dry-run"]) == 0
    lines = command_lines("".join(f"  {line}\n" for line in capsys.readouterr().out.splitlines()))
    assert [line[0] for line in lines].count("embed") == 8
    for command, *words in lines:
        command_parser(command).parse_known_args(words)
    assert not (tmp_path / "d").exists()


def test_help_does_not_import_jax():
    code = """
import sys
from mae_jax.cli.main import main
for name in ("", "embed", "train", "plan", "reconstruct", "convert", "pack"):
    try:
        main([name, "--help"] if name else ["--help"])
    except SystemExit:
        pass
    assert "jax" not in sys.modules, name
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
