"""`mae-jax completion`: a script with which a shell completes commands, options and files."""

import argparse
from typing import Any

from mae_jax.errors import InputError

HELP = "Print a script with which a shell completes the commands and options of mae-jax."
EXAMPLE = """\
  mae-jax completion bash > ~/.local/share/bash-completion/completions/mae-jax
  mae-jax completion zsh > ~/.zfunc/_mae-jax     # a folder of $fpath
  mae-jax completion fish > ~/.config/fish/completions/mae-jax.fish"""
SHELLS = ("bash", "zsh", "fish")

_FILES = ("FILE", "PATH", "INDEX", "CSV", "TABLE", "CONFIG", "SOURCE", "EMBEDDINGS", "RUN")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the script."""
    script = completion_script(args.shell)
    print(script)
    return {"shell": args.shell, "script": script}


def completion_script(shell: str) -> str:
    """The script for a shell of `SHELLS`, made from the parsers of all commands."""
    import shtab

    if shell not in SHELLS:
        raise InputError(f"no completion for '{shell}'; choose one of {', '.join(SHELLS)}.")
    return shtab.complete(whole_parser(), shell)


def whole_parser() -> argparse.ArgumentParser:
    """One parser with all commands as sub-commands, whose files are marked for shtab."""
    from mae_jax.cli.main import COMMANDS, command_parser

    root = argparse.ArgumentParser(prog="mae-jax")
    root.add_argument("--version", action="store_true", help="versions of the stack")
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
        commands.choices[name] = command_parser(name)
        _mark_files(commands.choices[name])
    return root


def _mark_files(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark_files(command)
            continue
        words = str(action.metavar or "").replace("[NAME=]", "").replace("[KIND:]", "")
        word = words.split(",")[0].split("_OR_")[0]
        takes_file = word in _FILES or action.dest in ("out", "workdir", "index", "source")
        if action.nargs != 0 and action.choices is None and (takes_file or word == "FOLDER"):
            action.complete = shtab.DIRECTORY if word == "FOLDER" else shtab.FILE  # type: ignore[attr-defined]
