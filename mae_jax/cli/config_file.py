"""Config files with their overrides: find, run, change, and explain what is wrong.

A config file is Python with a function `get_config()` that returns a `ConfigDict`; the text after
a colon in its path is the function's argument (`paper:mae/vit_l16/rxrx3`). Overrides such as
`--config.optimizer.lr=1e-4` change values of the result.
"""

import ast
import importlib.util
import inspect
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

import mae_jax
from mae_jax.config import nearest
from mae_jax.config_keys import current_path, renamed_keys
from mae_jax.errors import InputError

PREFIX = "--config."


def load_config(path: str, overrides: Sequence[str] = (), schema: type | None = None) -> ConfigDict:
    """The `ConfigDict` of a config file, with overrides applied.

    Args:
      path: a Python file, or the name of a shipped one such as "demo"; with `:ARGUMENT`, the
        argument of its `get_config`.
      overrides: command-line words such as `--config.optimizer.lr=1e-4`. Tuples may be written
        as `A,B,C` or as Python tuples; None is written `None`.
      schema: the dataclass whose renamed keys are recognized; `TrainConfig` by default.

    Raises:
      InputError: no such file, a file that does not run or does not return a `ConfigDict`, an
        unknown key (the nearest one is named), a renamed key (with the new name), a value that
        cannot be parsed, or a word that is no override.
    """
    if schema is None:
        from mae_jax.train.config import TrainConfig

        schema = TrainConfig
    name, colon, argument = path.partition(":")
    file = find_config(name)
    config = _call(_get_config(file, schema), [argument] if colon else [], file, schema)
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"{file}: get_config() must return a ConfigDict, not {type(config).__name__}; "
            "build it with mae_jax.config.as_config_dict."
        )
    tables = dict(_keys(config))
    switches = [key for key, (table, leaf) in tables.items() if table.get_type(leaf) is bool]
    for key, text in _pairs(overrides, switches):
        if key not in tables:
            raise InputError(_unknown(key, list(tables), schema))
        table, leaf = tables[key]
        value = _parsed(text, table.get_type(leaf), table[leaf], key)
        with table.ignore_type():  # `from_dict` checks types by the schema, which is more exact
            table[leaf] = value
    return config


def find_config(name: str) -> Path:
    """The file of a config: a path, or a name of one that is shipped with mae_jax.

    Raises:
      InputError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(mae_jax.__file__).parent
    installed, checkout = package / "configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    shipped = {file.stem: file for file in sorted(folder.glob("[!_]*.py"))}
    if path.parent in (Path(), Path("configs")) and path.stem in shipped:
        return shipped[path.stem]
    raise InputError(
        f"config file {name} does not exist, and no config of that name is shipped: "
        f"{nearest(path.stem, list(shipped))}"
    )


def load_hooks(path: str) -> tuple[list[Any], list[Any]]:
    """The callbacks and evaluators of a config file, for `mae_jax.train.Trainer`.

    They are what the functions `get_callbacks()` and `get_evaluators()` beside `get_config()`
    return; a file need not have them.

    Raises:
      InputError: as `load_config`, or a function returns something else.
    """
    from mae_jax.train import Callback, Evaluator, TrainConfig

    file = find_config(path.partition(":")[0])
    module = _run_file(file, TrainConfig)
    hooks: list[list[Any]] = []
    for name, expected in (("get_callbacks", Callback), ("get_evaluators", Evaluator)):
        function: Callable[[], Any] = getattr(module, name, lambda: [])
        values = list(_call(function, [], file, TrainConfig))
        for value in values:
            if not isinstance(value, expected):
                raise InputError(
                    f"{file}: {name}() must return objects of mae_jax.train.{expected.__name__}, "
                    f"not {type(value).__name__}."
                )
        hooks.append(values)
    return hooks[0], hooks[1]


def _get_config(file: Path, schema: type) -> Callable[..., Any]:
    """Run the config file; return its function `get_config`."""
    function = getattr(_run_file(file, schema), "get_config", None)
    if not callable(function):
        raise InputError(f"{file} has no function get_config(); define one that returns a config.")
    return function


def _run_file(file: Path, schema: type) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_file_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file; a config file ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(f"{file}, line {error.lineno}: {error.msg}.") from None
    except InputError:
        raise
    except Exception as error:
        raise _failure(error, file, schema) from error
    return module


def _call(function: Callable[..., Any], arguments: list[str], file: Path, schema: type) -> Any:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        wanted = "takes no argument" if arguments else "needs an argument"
        hint = "leave out the part after the colon" if arguments else f"write {file.name}:ARGUMENT"
        raise InputError(f"{file}: {function.__name__}() {wanted}; {hint}.") from None
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        raise _failure(error, file, schema) from error


def _failure(error: Exception, file: Path, schema: type) -> InputError:
    """One sentence for an exception that a config file raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename) == file]  # fmt: skip
    where = f"{file}, line {lines[-1]}" if lines else str(file)
    # ml_collections and dataclasses quote the key that does not exist.
    key = re.search(r"[\"'](\w+)[\"'] (?:does not exist|is not)|argument '(\w+)'", str(error))
    key = key or re.fullmatch(r"[\"']*(\w+)[\"']*", str(error))
    if isinstance(error, AttributeError | KeyError | TypeError) and key:
        name = next(group for group in key.groups() if group)
        if name in (names := renamed_keys(schema)):
            return InputError(f"{where}: {name} is now called {' or '.join(names[name])}.")
        return InputError(f"{where}: there is no key '{name}' there; see --help-config for all.")
    message = " ".join(str(error).split())[:200].rstrip(".")
    return InputError(f"{where}: {type(error).__name__}: {message}.")


def _keys(table: ConfigDict, prefix: str = "") -> Iterator[tuple[str, tuple[ConfigDict, str]]]:
    """Every key's path, with the table that holds it and its name there."""
    for key in table:
        yield f"{prefix}{key}", (table, key)
        if isinstance(table[key], ConfigDict):
            yield from _keys(table[key], f"{prefix}{key}.")


def _pairs(words: Sequence[str], switches: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and text of `--config.KEY=TEXT`, `--config.KEY TEXT` and, of switches, `--config.KEY`."""
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith(PREFIX):
            raise InputError(
                f"'{word}' is neither an option nor an override; overrides look like "
                "--config.optimizer.lr=1e-4."
            )
        key, equals, text = word.removeprefix(PREFIX).partition("=")
        if equals:
            yield key, text
        elif queue and not queue[0].startswith("--"):
            yield key, queue.pop(0)
        elif key in switches:
            yield key, "true"
        else:
            raise InputError(f"{word} needs a value, as in {word}=VALUE.")


def _unknown(key: str, known: Sequence[str], schema: type) -> str:
    if (today := current_path(schema, key)) not in (None, key):
        return f"config key '{key}' is now called '{today}'; write {PREFIX}{today}=VALUE."
    return f"the config has no key '{key}': {nearest(key, known)}"


def _parsed(text: str, expected: type, value: Any, key: str) -> Any:
    """`text` as a value like the present `value`, whose type is `expected`."""
    if text in ("None", "none") and expected is not str:
        return None
    if issubclass(expected, ConfigDict):
        raise InputError(f"config key '{key}' is a table; set one of its keys.")
    if expected is str:
        return text
    if expected is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise InputError(f"{PREFIX}{key}={text}: must be true or false.")
    if expected in (tuple, list):
        return _tuple(text, of_names=all(isinstance(item, str) for item in value or ()))
    literal = _literal(text)
    if isinstance(literal, int | float):
        return literal
    try:
        return float(text)  # nan and inf, which the ranges of the schema refuse
    except ValueError:
        raise InputError(f"{PREFIX}{key}={text}: must be a number.") from None


def _tuple(text: str, of_names: bool) -> tuple[Any, ...]:
    literal = _literal(text)
    if text.strip()[:1] in ("(", "[") and isinstance(literal, tuple | list):
        return tuple(literal)
    if literal is not None and not of_names:
        return tuple(literal) if isinstance(literal, tuple) else (literal,)
    items = [item.strip().strip("'\"") for item in text.split(",")]
    return tuple(item for item in items if item)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError):
        return None
