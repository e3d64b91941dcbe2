"""The PyTorch networks to compare with."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def torch_reference():
    path = Path(__file__).parent / "torch_reference.py"
    spec = importlib.util.spec_from_file_location("torch_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
