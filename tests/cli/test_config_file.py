"""Config files with their overrides: what is wrong is named, with its neighbor."""

from pathlib import Path

import pytest

import mae_jax
from mae_jax.cli.config_file import load_config
from mae_jax.cli.main import main
from mae_jax.config import from_dict
from mae_jax.errors import InputError
from mae_jax.train.config import TrainConfig

BASE = """from mae_jax.config import as_config_dict
from mae_jax.train.config import TrainConfig
def get_config():
    c = as_config_dict(TrainConfig())
"""
DEMO = str(Path(__file__).parents[2] / "configs" / "demo.py")


def test_overrides_change_their_key():
    config = load_config(DEMO, ["--config.optimizer.lr=0.5", "--config.steps=7"])
    assert config.optimizer.lr == 0.5
    assert config.steps == 7


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optimizer.lrr=1", "no key 'optimizer.lrr': did you mean 'optimizer.lr'"),
        ("--config.stesp=1", "no key 'stesp': did you mean 'steps'"),
        ("--config.steps=many", "steps=many"),
        ("stray", "'stray' is neither an option nor an override"),
    ],
)
def test_what_is_wrong_is_named(override, words):
    with pytest.raises(InputError, match=words.replace("?", r"\?")):
        load_config(DEMO, [override])


def test_the_command_says_it_in_one_line(tmp_path, capsys):
    words = ["--config", DEMO, "--config.model.encoder.widht=64", "--workdir", str(tmp_path / "r")]
    assert main(["train", *words]) == 2
    shown = capsys.readouterr().err
    assert "did you mean 'model.encoder.width'?" in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"configs/demos\.py does not exist"):
        load_config("configs/demos.py")


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_config(:\n", r"mine\.py, line 1: "),
        ("x = 1\n", r"mine\.py has no function get_config"),
        ("def get_config():\n    return None\n", "must return a ConfigDict, not NoneType"),
        ("def get_config():\n    return get_config()\n", "line 2: RecursionError"),
        ("def get_config(name):\n    return None\n", r"needs an argument; write mine\.py:ARGUMENT"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0\n", "line 2: ZeroDivisionError"),
        (f"{BASE}    c.keep_untrained = True\n    return c\n",
         "line 5: keep_untrained is now called save_initial_model"),
        (f"{BASE}    c.faults.memory = 3\n    return c\n", "faults is now called divergence"),
        (f"{BASE}    c.stesp = 3\n    return c\n", "line 5: there is no key 'stesp'"),
        (f"{BASE}    c.steps = 'many'\n    return c\n", "line 5: TypeError"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_load_names_its_line(text, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_config(write(tmp_path, text))


def test_an_argument_that_the_file_does_not_take_is_refused():
    with pytest.raises(InputError, match="takes no argument"):
        load_config(f"{DEMO}:mae")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optimizer.spared=x", "is now called 'optimizer.no_decay'"),
        ("--config.faults.memory=3", "is now called 'divergence.stats_window'"),
        ("--config.keep_untrained=true", "is now called 'save_initial_model'"),
        ("--config.optimizer=1", "'optimizer' is a table"),
        ("--config.save_initial_model=maybe", "must be true or false"),
        ("--config.steps", "needs a value"),
    ],
)
def test_an_override_that_does_not_fit_is_refused(override, words):
    with pytest.raises(InputError, match=words):
        load_config(DEMO, [override])


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("model.encoder.channels=A,B,C", "model.encoder.channels", ("A", "B", "C")),
        ("model.encoder.channels=405,488", "model.encoder.channels", ("405", "488")),
        ('model.encoder.channels=("A", "B")', "model.encoder.channels", ("A", "B")),
        ("model.encoder.channels=A", "model.encoder.channels", ("A",)),
        ("log.profile=3,4", "log.profile", (3, 4)),
        ("log.profile=(3, 4)", "log.profile", (3, 4)),
        ("optimizer.no_decay=", "optimizer.no_decay", ()),
        ('mesh.rules=(("kernel$", ("", "fsdp")),)', "mesh.rules", (("kernel$", ("", "fsdp")),)),
        ("model.encoder.layer_scale=None", "model.encoder.layer_scale", None),
        ("save_initial_model=False", "save_initial_model", False),
        ("init_from=7", "init_from", "7"),
    ],
)
def test_values_are_read_by_the_type_of_their_key(override, key, value):
    config = from_dict(TrainConfig, load_config(DEMO, [f"--config.{override}"]).to_dict())
    for name in key.split("."):
        config = getattr(config, name)
    assert config == value


def test_an_override_may_be_two_words():
    config = load_config(DEMO, ["--config.steps", "7", "--config.save_initial_model"])
    assert (config.steps, config.save_initial_model) == (7, True)


def test_shipped_configs_have_names_that_hold_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").steps == load_config(DEMO).steps
    assert load_config("paper:mae/vit_l8+/rpi_93m").data.batch == 16_384
    assert load_config("configs/demo.py").steps == load_config(DEMO).steps
    (tmp_path / "demo").write_text(f"{BASE}    c.steps = 1\n    return c\n")
    with pytest.raises(InputError, match=r"ends in \.py"):
        load_config("demo")  # a file of that name comes first


def test_an_installed_package_has_its_configs_inside(tmp_path, monkeypatch):
    """As in a wheel; a folder of that name beside the package belongs to somebody else."""
    package = tmp_path / "site-packages" / "mae_jax"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "demo.py").write_text(f"{BASE}    c.steps = 11\n    return c\n")
    (tmp_path / "site-packages" / "configs").mkdir()
    (tmp_path / "site-packages" / "configs" / "foreign.py").write_text("1 / 0")
    monkeypatch.setattr(mae_jax, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert load_config("demo").steps == 11
    with pytest.raises(InputError, match=r"foreign does not exist, .*: known: demo\."):
        load_config("foreign")
