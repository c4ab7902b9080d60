"""What unit tests of several packages share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def datasets() -> ModuleType:
    """tests/unit/data_pipeline/conftest.py, which importlib mode does not let test files import."""
    path = Path(__file__).parent / "data_pipeline/conftest.py"
    spec = importlib.util.spec_from_file_location("unit_datasets", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
