"""`mae-jax`: find the command's module, parse, run, and print an error as one line."""

import argparse
import glob
import importlib
import importlib.util
import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from mae_jax._version import __version__
from mae_jax.cli.common_options import add_common_options, logging_at, take_common_options
from mae_jax.cli.import_module import import_module
from mae_jax.cli.launch import launch
from mae_jax.cli.machine_output import print_document
from mae_jax.cli.missing_packages import missing_package
from mae_jax.cli.parser import Parser
from mae_jax.cli.versions import version_text
from mae_jax.config import nearest
from mae_jax.errors import (
    BROKEN_PIPE,
    DONE,
    INTERRUPTED,
    MACHINE,
    WRONG_INPUT,
    InputError,
    machine_failure_message,
    redact_credentials,
)

# In the order of a screen's life; each names the module mae_jax.cli.<command>.
COMMANDS = {
    "run": "the whole way from a folder of images to corrected embeddings and a page",
    "synth": "draw a synthetic Cell Painting screen with known biology",
    "fetch": "download public data sets, or parts of them, with an index",
    "index": "index a screen's images and metadata in one parquet file",
    "pack": "convert a screen into a store that training reads quickly",
    "train": "train a network from a config; resumes by itself",
    "finetune": "fine-tune an encoder to predict labels of wells or images",
    "embed": "embed every well with any encoder",
    "reconstruct": "show masked, reconstructed and original images",
    "correct": "remove batch effects from embeddings",
    "evaluate": "evaluate embeddings: recall of known relationships and more",
    "benchmark": "score models on a public benchmark, beside published scores",
    "report": "write one HTML page about a run",
    "view": "browse embeddings: plates, a map of all wells, images, neighbors",
    "plan": "estimate the memory, FLOPs and time of a run",
    "models": "list the encoders that are had by name, and where they come from",
    "convert": "read and write the weights of other implementations",
    "launch": "start runs on TPU VMs, GKE, Kubernetes and SLURM",
    "doctor": "say what this machine has, and what each command lacks",
    "completion": "print a script that completes commands in bash, zsh or fish",
    "demo": "run everything, end to end, on a synthetic screen",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (see `mae_jax.errors`)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with interrupts_kept():
            status = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_left():
            raise
        return BROKEN_PIPE
    except SystemExit:  # argparse, after --help
        _reader_left()
        raise
    return status


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise a Ctrl-C that is lost in a callback once more.

    A signal may arrive while the interpreter collects garbage, where JAX has a callback; Python
    would print what is raised there and go on.
    """
    usual = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            # Once the callback is left.
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            usual(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return DONE
    if argv[0] == "--version":
        print(version_text())
        return DONE
    name = argv[0]
    if name not in COMMANDS:
        print(f"mae-jax: no command '{name}': {nearest(name, list(COMMANDS))}", file=sys.stderr)
        return WRONG_INPUT
    if name == "launch":  # a command line of its own
        return launch(argv[1:])
    command = importlib.import_module(f"mae_jax.cli.{name}")
    parser = command_parser(name)
    if getattr(command, "TAKES_OVERRIDES", False):
        args, overrides = parser.parse_known_args(argv[1:])
        args.overrides = overrides
    else:
        args = parser.parse_args(argv[1:])
    common = take_common_options(args)
    _no_search_for_tpus()
    logging.setLogRecordFactory(_redacted_record)
    logging.getLogger("tifffile").disabled = True  # broken files are reported by our own readers
    result, status, message, ended = None, DONE, "", None
    with ExitStack() as stack:
        if common.json:
            stack.enter_context(redirect_stdout(sys.stderr))
        stack.enter_context(logging_at(common.level))
        try:
            for module in common.modules:
                import_module(module)
            result = command.run(args)
        except KeyboardInterrupt:
            status, message = INTERRUPTED, "interrupted; the same command resumes."
            print(file=sys.stderr)
        except SystemExit as end:  # a preempted training, which ends all that was to follow
            ended, status = end, end.code if isinstance(end.code, int) else DONE
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _reader_left():
                return BROKEN_PIPE
            status, message = _status_and_message(error, name)
            if common.verbose:
                traceback.print_exc()
    if message:
        message = redact_credentials(message)
        print(f"mae-jax {name}: {message}", file=sys.stderr)
    if common.json:
        print_document(name, status, result, message)
    if ended is not None:
        raise ended
    return status


def _status_and_message(error: Exception, command: str) -> tuple[int, str]:
    """The exit status and the sentence of an error; a defect is raised: its traceback helps."""
    failure = machine_failure_message(error)
    message = str(error) if isinstance(error, InputError) else failure
    if isinstance(error, ModuleNotFoundError):
        message = missing_package(error, command)
    if message is None:
        raise error
    return (WRONG_INPUT if failure is None else MACHINE), message


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one of `COMMANDS`, from which the reference of all options is made too."""
    command = importlib.import_module(f"mae_jax.cli.{name}")
    if name == "launch":
        parser: argparse.ArgumentParser = command.build_parser()
        return parser
    parser = Parser(
        prog=f"mae-jax {name}",
        description=command.HELP,
        epilog=f"example:\n{command.EXAMPLE}",
    )
    command.arguments(parser)
    add_common_options(parser)
    return parser


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """A log record without the credentials of URLs, for `logging.setLogRecordFactory`."""
    record = logging.LogRecord(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: logging reports them itself
        return record
    redacted = redact_credentials(message)
    if redacted != message:
        record.msg, record.args = redacted, ()
    return record


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after `mae-jax … | head`."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        gone = any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file at all, or a system without poll
        return False
    if gone:  # what is still buffered must not fail when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _no_search_for_tpus() -> None:
    """Set JAX's platform to CPU on machines with the TPU compiler but no accelerator.

    With libtpu installed (`mae-jax plan` compiles with it), JAX looks for TPUs and complains at
    length where it finds none.
    """
    accelerators = ("accel*", "vfio/[0-9]*", "nvidia[0-9]*")
    if not any(glob.glob(f"/dev/{name}") for name in accelerators) and importlib.util.find_spec(
        "libtpu"
    ):
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        f"mae-jax {__version__}: masked autoencoders for microscopy\n\n"
        f"usage: mae-jax COMMAND [options]\n\n{rows}\n\n"
        "`mae-jax COMMAND --help` shows the options and an example; `mae-jax --version` shows the\n"
        "versions of the stack.\n\n"
        "exit status: 0 done; 1 a defect, with its traceback; 2 wrong input; 70 a training step\n"
        "hung; 71 machine failure (memory, disk, storage, a killed process); 75 preempted, if the\n"
        "launcher asks for it; 130 interrupted; 141 the reader of the output left. After 70, 71,\n"
        "75 and 130 the same command resumes."
    )


if __name__ == "__main__":
    sys.exit(main())
