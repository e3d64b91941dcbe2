"""The options that every command has: `--json`, `--quiet`, `--verbose`, `--log-level`, `--import`.

A command reads `args.quiet` (no progress bars, no notes) and returns from `run` what it found or
wrote as a mapping, which `--json` prints. `--overwrite` and `--dry-run` are declared by the
commands that write: see `mae_jax.cli.outputs`.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass

LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class CommonOptions:
    """What the common options say.

    Attributes:
      json: print the result as one JSON document on stdout, and all else on stderr.
      verbose: also show the traceback of an error.
      level: of the log messages on stderr; None: what Python does by itself, which is warnings.
      modules: modules to import first.
    """

    json: bool
    verbose: bool
    level: str | None
    modules: tuple[str, ...]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Declare the common options of a command, and of each of its sub-commands."""
    _add(parser, default=True)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():  # without defaults: they would undo the others
                _add(command, default=False)


def _add(parser: argparse.ArgumentParser, default: bool) -> None:
    group = parser.add_argument_group("common options")
    silent = argparse.SUPPRESS

    def flag(name: str, help_text: str) -> None:
        if name not in parser._option_string_actions:
            group.add_argument(
                name, action="store_true", default=False if default else silent, help=help_text
            )

    flag("--json", "print the result as one JSON document on stdout, and all else on stderr")
    flag("--quiet", "no progress bars and no notes")
    flag("--verbose", "log what is done, and show the traceback of an error")
    group.add_argument(
        "--log-level",
        choices=LEVELS,
        default=None if default else silent,
        help="log messages to show on stderr (default: warning; error with --quiet, info with "
        "--verbose)",
    )
    group.add_argument(
        "--import",
        action="append",
        default=[] if default else silent,
        dest="modules",
        metavar="MODULE",
        help="import a module of your own first, such as one that registers a network; a name or "
        "a file.py",
    )


def take_common_options(args: argparse.Namespace) -> CommonOptions:
    """Remove the common options from `args`, all but `quiet`, which commands read."""
    values = vars(args)
    level = values.pop("log_level")
    verbose = values.pop("verbose")
    if level is None and (verbose or args.quiet):
        level = "info" if verbose else "error"
    return CommonOptions(values.pop("json"), verbose, level, tuple(values.pop("modules")))


@contextlib.contextmanager
def logging_at(level: str | None) -> Iterator[None]:
    """Show the package's log messages from `level` on; at "debug" those of all packages."""
    if level is None:
        yield
        return
    logger = logging.getLogger() if level == "debug" else logging.getLogger("mae_jax")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
