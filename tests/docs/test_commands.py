"""Every `mae-jax` command in README and documentation is one that the parsers accept."""

import argparse
import re
import shlex
from pathlib import Path

import pytest

from mae_jax.cli.main import COMMANDS, command_parser
from mae_jax.errors import InputError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(?:sh|bash|)\n(.*?)```", re.DOTALL)


def commands(page: Path) -> list[str]:
    """The command lines in a page's blocks of shell, without comments and redirections."""
    lines = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.split(r"\s(?:#|\||>|&&)\s", line.strip() + " ")[0].strip()
            if command.startswith("mae-jax "):
                lines.append(command.replace("$(echo", "").replace("…", "x"))
    return lines


def test_there_are_commands_to_check() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_right(page: Path) -> None:
    for command in commands(page):
        words = shlex.split(command)[1:]
        assert words[0] in COMMANDS, command
        if words[0] == "launch" and "--" in words:
            inner = words[words.index("--") + 1 :]
            words = words[: words.index("--")]
            assert inner[0] in COMMANDS, command
        parser = command_parser(words[0])
        try:
            _, rest = parser.parse_known_args(words[1:])
        except (SystemExit, argparse.ArgumentError, InputError) as problem:
            pytest.fail(f"{command}: {problem}")
        assert all(word.startswith("--config.") for word in rest), f"{command}: {rest}"
