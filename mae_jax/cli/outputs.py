"""`--overwrite` and `--dry-run` of the commands that write."""

import argparse
import os
from collections.abc import Callable

from mae_jax.errors import InputError


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Declare `--dry-run`; `run` then checks the input, says what it would do, and returns."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the input, say what would be done, and write nothing",
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Declare `--overwrite`, for `check_output`."""
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is at --out, if anything"
    )


def check_output(path: str | os.PathLike[str] | None, overwrite: bool) -> None:
    """Refuse to replace a file that exists, unless the user says so.

    Args:
      path: a file or a Zarr store; of other folders, the file that is written last.
        None or a URL is not checked.
      overwrite: as the user says.

    Raises:
      InputError: the file exists.
    """
    if path is None or overwrite or "://" in os.fspath(path):
        return
    if os.path.isfile(path) or os.path.exists(os.path.join(path, "zarr.json")):
        raise InputError(f"{os.fspath(path)} exists; add --overwrite to replace it.")


def notes_of(args: argparse.Namespace) -> Callable[[str], None]:
    """What takes notes on what is read and done: prints them at once, or nothing with --quiet."""

    def print_note(text: str) -> None:
        if not args.quiet:
            print(text, flush=True)

    return print_note
