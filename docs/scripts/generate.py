"""Writes the pages that are made from the code: mkdocs-gen-files runs this at each build.

Commands and options come from the parsers, config keys from `mae_jax.config_reference`, the Python
reference from each package's public names, benchmarks from `benchmarks/results`, tutorials from
their last execution (`make tutorials`). None of these pages is under version control.
"""

import argparse
import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import mkdocs_gen_files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import tutorials  # noqa: E402
from packages import PACKAGES  # noqa: E402

from mae_jax import config_reference  # noqa: E402
from mae_jax.cli.main import COMMANDS, command_parser  # noqa: E402
from mae_jax.train import TrainConfig  # noqa: E402


def write(path: str, text: str) -> None:
    with mkdocs_gen_files.open(path, "w") as file:
        file.write(text)


# Commands


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A parser's own arguments by group, as lists of definitions."""
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        ]
        if shown:
            title = str(group.title or "options")
            yield f"**{title[0].upper()}{title[1:]}**\n"
            yield from (definition(action, parser) for action in shown)


def definition(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """One argument: its names and value, and what it means."""
    metavar = action.metavar if isinstance(action.metavar, str) else None
    if not action.option_strings:
        head = metavar or action.dest
    elif action.nargs == 0:
        head = ", ".join(action.option_strings)
    else:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""
        head = f"{', '.join(action.option_strings)} {metavar or choices or action.dest.upper()}"
    meaning = text(" ".join(((action.help or "") % _values(action, parser)).split()))
    required = action.required and action.option_strings
    parts = [*["required"] * bool(required), *[meaning] * bool(meaning)]
    return f"`{head}`\n:   {'; '.join(parts) or '–'}\n"


def _values(action: argparse.Action, parser: argparse.ArgumentParser) -> dict[str, object]:
    return {**vars(action), "prog": parser.prog}


def text(words: str) -> str:
    """Plain words as Markdown: nothing in them is markup but code between backquotes."""
    parts = re.split(r"(`[^`]*`)", words)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\|<>*_\[\]])", r"\\\1", part)
        for part in parts
    )


def code(words: str) -> str:
    return f"`{words}`".replace("|", "\\|") if words else ""


def epilog(words: str) -> Iterator[str]:
    """The text below a command's options: indented lines are commands, the others prose."""
    for indented, lines in itertools.groupby(
        words.splitlines()[1:], lambda line: line.startswith(" ") or not line
    ):
        block = "\n".join(lines)
        if block.strip():
            yield f"```sh\n{inspect.cleandoc(block)}\n```\n" if indented else f"{text(block)}\n"


def parser_page(parser: argparse.ArgumentParser, level: int = 1) -> Iterator[str]:
    """The Markdown of a command and of its sub-commands."""
    yield f"{'#' * level} {parser.prog}\n"
    if parser.description:
        words = parser.description.strip()
        yield f"{text(words[0].upper() + words[1:])}\n"
    if parser.epilog:
        yield from epilog(parser.epilog)
    yield from options(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in dict.fromkeys(action.choices.values()):
                yield from parser_page(child, level + 1)


def commands() -> None:
    listing = ["# Commands\n", "| command | what it does |", "|---|---|"]
    for name, summary in COMMANDS.items():
        page = "\n".join(parser_page(command_parser(name)))
        write(f"reference/commands/mae-jax-{name}.md", page)
        listing.append(f"| [`mae-jax {name}`](mae-jax-{name}.md) | {text(summary)} |")
    write("reference/commands/index.md", "\n".join(listing) + "\n\n" + STATUSES)


STATUSES = """\
Every option is listed on the command's page, made from the command's own parser.

## Exit status

| status | meaning |
|---|---|
| 0 | done |
| 2 | wrong input: one sentence names the file, row or key and what to do |
| 70 | a training step hung; the same command resumes |
| 71 | machine failure (memory, disk, storage, a killed process); the same command resumes |
| 75 | preempted, where `--preempted-exit-code 75` asks for it |
| 130 | interrupted; the same command resumes |
"""


# Python


def public_names(module: ModuleType) -> list[str]:
    """Public functions and classes: those of `__all__`, or those that the module defines."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not name.startswith("__")]
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    """The modules in a package that has no `__all__`."""
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_") and not info.ispkg:
            yield importlib.import_module(f"{package.__name__}.{info.name}")


def python_page(name: str) -> str:
    module = importlib.import_module(name)
    lines = [f"# {name}\n"]
    doc = inspect.getdoc(module)
    if doc:
        lines.append(markdown_of(doc) + "\n")
    names = public_names(module)
    for public in names:
        lines.append(f"::: {name}.{public}\n")
    if not names and hasattr(module, "__path__"):
        for child in modules_of(module):
            if public_names(child):
                summary = (inspect.getdoc(child) or "").partition("\n\n")[0]
                lines.append(f"## {child.__name__}\n\n{' '.join(summary.split())}\n")
                for public in public_names(child):
                    options = "    options:\n      heading_level: 3\n"
                    lines.append(f"::: {child.__name__}.{public}\n{options}")
    return "\n".join(lines)


def markdown_of(doc: str) -> str:
    """A module's docstring as Markdown: indented blocks are code."""
    parts = []
    for block in doc.split("\n\n"):
        indented = all(line.startswith("    ") for line in block.splitlines() if line)
        parts.append(f"```python\n{inspect.cleandoc(block)}\n```" if indented else block)
    return re.sub(r"\n```\n\n```python\n", "\n\n", "\n\n".join(parts))


def python() -> None:
    listing = ["# Python\n", "| package | contents |", "|---|---|"]
    for name in PACKAGES:
        write(f"reference/python/{name}.md", python_page(name))
        first = (inspect.getdoc(importlib.import_module(name)) or "").partition("\n\n")[0]
        listing.append(f"| [`{name}`]({name}.md) | {text(' '.join(first.split()))} |")
    write("reference/python/index.md", "\n".join(listing) + "\n")


# Config keys, benchmarks, changes


def config_keys() -> None:
    lines = [
        "# Config keys\n",
        "`mae-jax train --config NAME --config.KEY=VALUE` changes any of these keys; an unknown "
        "key is an error that names the nearest one. `mae-jax train --help-config` prints the same "
        "list.\n",
    ]
    section = None
    for key in config_reference.describe(TrainConfig):
        table = key.name.partition(".")[0] if "." in key.name else "Top level"
        if table != section:
            section = table
            lines.append(f"## {table}\n")
        default = f"default `{key.default}`" if key.default else "required"
        facts = [f"`{key.type}`", default, *[text(key.range)] * bool(key.range)]
        where = f" ({key.only_in})" * bool(key.only_in)
        lines.append(f"`{key.name}`{where}\n:   {'; '.join(facts)}\n\n    {text(key.meaning)}\n")
    write("reference/config.md", "\n".join(lines) + "\n")


def benchmarks() -> None:
    results = ROOT / "benchmarks" / "results"
    text = (ROOT / "benchmarks" / "README.md").read_text()
    text = re.sub(r"\(results/(\w+)\)", r"(benchmarks/\1.md)", text)
    lines = ["\n## All results\n", "| benchmark | measured on |", "|---|---|"]
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        page = result_page(folder)
        days = sorted(set(re.findall(r"20\d\d-\d\d-\d\d", page)))
        lines.append(
            f"| [{folder.name}](benchmarks/{folder.name}.md) | {days[-1] if days else '–'} |"
        )
        write(f"results/benchmarks/{folder.name}.md", _local_links(page, folder))
    write("results/benchmarks.md", text + "\n".join(lines) + "\n")


def result_page(folder: Path) -> str:
    """The page of a benchmark's results: its README, or its notes, pictures and links to tables."""
    if (folder / "README.md").exists():
        return (folder / "README.md").read_text()
    about = "".join(path.read_text() for path in sorted(folder.glob("*.txt")))
    pictures = [f"![{path.stem}]({path.name})" for path in sorted(folder.glob("*.png"))]
    tables = [f"- [{path.name}]({path.name})" for path in sorted(folder.glob("*.csv"))]
    script = ROOT / "benchmarks" / f"{folder.name}.py"
    doc = ast.get_docstring(ast.parse(script.read_text())) if script.exists() else ""
    parts = [f"# {folder.name.capitalize()}", about, markdown_of(doc or ""), *pictures]
    return "\n\n".join([*parts, "\n".join(tables)]) + "\n"


def _local_links(page: str, folder: Path) -> str:
    """`page` with the files that it links copied beside it."""

    def copy(match: re.Match[str]) -> str:
        target = match[1]
        source = folder / target
        if "://" in target or target.startswith("#") or not source.is_file():
            return match[0]
        name = f"{folder.name}/{Path(target).name}"
        with mkdocs_gen_files.open(f"results/benchmarks/{name}", "wb") as file:
            file.write(source.read_bytes())
        return f"]({name})"

    return re.sub(r"\]\(([^)\s]+)\)", copy, page)


def changes() -> None:
    write("results/changes.md", (ROOT / "CHANGELOG.md").read_text())


def pictures_of_demo() -> None:
    for name in ("triplets.png", "report.png"):
        with mkdocs_gen_files.open(f"assets/{name}", "wb") as file:
            file.write((ROOT / "benchmarks" / "results" / "demo" / name).read_bytes())


def executed_tutorials() -> None:
    for name in tutorials.NAMES:
        page, pictures = tutorials.page(name)
        write(f"tutorials/{name}.md", page)
        for file_name, data in pictures.items():
            with mkdocs_gen_files.open(f"tutorials/{file_name}", "wb") as file:
                file.write(data)


commands()
python()
config_keys()
benchmarks()
changes()
pictures_of_demo()
executed_tutorials()
