"""The command line's frame: help, unknown commands, errors as one sentence."""

import errno
import importlib
import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest

from mae_jax.cli.main import COMMANDS, main
from mae_jax.errors import BROKEN_PIPE, INTERRUPTED, InputError, MachineError


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


def test_a_misspelt_command_names_its_neighbor(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def wrapped(cause: Exception) -> InputError:
    """An error of reading, as readers raise it."""
    error = InputError("a.tif cannot be read; copy it again.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (InputError("well.tiff is truncated; copy it again."), 2, "well.tiff is truncated"),
        (KeyboardInterrupt(), 130, "the same command resumes"),
        (MachineError("worker 3 was killed by SIGKILL."), 71, "worker 3 was killed by SIGKILL"),
        (OSError(errno.ENOSPC, "No space", "ckpt/7"), 71, "ckpt/7: no space is left"),
        (MemoryError(), 71, "memory is exhausted"),
        (BrokenProcessPool("terminated abruptly"), 71, "a worker process was killed"),
        (BrokenPipeError("a worker's pipe"), 71, "out of reach"),
        (wrapped(OSError(errno.EIO, "I/O error", "a.tif")), 71, "a.tif cannot be read"),
        (wrapped(FileNotFoundError(errno.ENOENT, "no", "a.tif")), 2, "a.tif cannot be read"),
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


def test_a_defect_keeps_its_traceback(monkeypatch):
    command = importlib.import_module("mae_jax.cli.report")

    def run(args):
        raise ZeroDivisionError

    monkeypatch.setattr(command, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["report", "--out", "x.html"])


@pytest.mark.parametrize("words", [["--help"], ["synth", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "mae_jax.cli.main", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode in (0, BROKEN_PIPE)
    assert done.stderr == b""


def test_options_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", "--ou", "x.html"])
    assert ended.value.code == 2


def test_the_overview_explains_the_exit_status(capsys):
    main([])
    assert "71 machine failure" in capsys.readouterr().out


def test_commands_do_not_see_the_options_of_the_frame(tmp_path, capsys):
    """`synth` takes its options for the keys of the screen: --import must not be among them."""
    assert main(["synth", "--out", str(tmp_path / "screen"), "--genes", "0", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "genes" in error
    assert "modules" not in error


def test_an_interrupt_that_arrives_in_a_callback_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where the signal comes while JAX's callback of the garbage collector runs."""

    def lose_the_interrupt(args: object) -> None:
        sys.unraisablehook(SimpleNamespace(exc_type=KeyboardInterrupt))
        time.sleep(5)

    monkeypatch.setattr("mae_jax.cli.doctor.run", lose_the_interrupt)
    before, began = sys.unraisablehook, time.monotonic()
    assert main(["doctor"]) == INTERRUPTED
    assert time.monotonic() - began < 4
    assert sys.unraisablehook is before
