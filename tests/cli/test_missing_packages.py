"""A command whose extra is not installed says which one to install."""

import sys

import pytest

from mae_jax.cli import missing_packages
from mae_jax.cli.main import main
from mae_jax.cli.missing_packages import missing_package


@pytest.mark.parametrize(
    ("module", "extra"), [("jax", "embed"), ("grain", "train"), ("orbax.checkpoint", "embed"),
                          ("umap", "view"), ("tensorflow_datasets", "tfds")],
)  # fmt: skip
def test_the_extra_that_brings_a_package_is_named(module, extra):
    error = ModuleNotFoundError(f"No module named '{module}'", name=module)
    assert f"mae_jax[{extra}]" in str(missing_package(error))


def test_a_command_that_needs_more_names_its_own_extra():
    error = ModuleNotFoundError("No module named 'flax'", name="flax")
    assert "mae_jax[train]" in str(missing_package(error, "train"))
    assert "mae_jax[embed]" in str(missing_package(error, "embed"))


def test_an_extra_brings_what_extras_of_its_packages_bring(monkeypatch):
    requirements = {
        "mae_jax": ['jax[cuda12]; extra == "cuda12"', 'mae_jax[embed]; extra == "cuda12"',
                    'flax; extra == "embed"'],
        "jax": ['jax-cuda12-plugin[with-cuda]<=1; extra == "cuda12"', 'libtpu; extra == "tpu"'],
    }  # fmt: skip
    monkeypatch.setattr(missing_packages.metadata, "requires", requirements.get)
    packages = missing_packages.packages_of_extras()
    assert packages["cuda12"] == {"jax", "jax-cuda12-plugin", "mae-jax", "flax"}


def test_a_module_of_no_extra_is_a_defect():
    assert missing_package(ModuleNotFoundError("No module named 'nothing'", name="nothing")) is None


def test_the_command_ends_with_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for name in [name for name in sys.modules if name.startswith("mae_jax.synth")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["synth", "--out", str(tmp_path / "screen")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("mae-jax synth: the package tifffile is not installed")
    assert message.count("\n") == 1
