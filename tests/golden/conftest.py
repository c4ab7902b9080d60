"""What tests of numerics share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def autoencoders() -> ModuleType:
    """tests/golden/autoencoders.py, which importlib mode does not let test files import."""
    spec = importlib.util.spec_from_file_location("golden_autoencoders", Path(__file__).with_name("autoencoders.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
