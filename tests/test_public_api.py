"""`import mae_jax` is light, gives what people need, and hides no module behind a function."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import mae_jax


@pytest.mark.parametrize("name", mae_jax.__all__)
def test_every_public_name_is_there_and_listed(name):
    assert getattr(mae_jax, name) is not None
    assert name in dir(mae_jax)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_encodr'"):
        _ = mae_jax.load_encodr


def test_importing_the_package_imports_no_heavy_library():
    code = (
        "import sys, mae_jax; dir(mae_jax); "
        "heavy = {'jax', 'flax', 'numpy', 'pandas', 'orbax'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def packages() -> list[str]:
    return ["mae_jax"] + [
        module.name
        for module in pkgutil.walk_packages(mae_jax.__path__, "mae_jax.")
        if module.ispkg and not module.name.startswith(("mae_jax.configs", "mae_jax.launch"))
    ]


@pytest.mark.parametrize("name", packages())
def test_no_public_name_hides_a_module_of_the_same_name(name):
    package = importlib.import_module(name)
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    assert not modules & set(getattr(package, "__all__", ()))
