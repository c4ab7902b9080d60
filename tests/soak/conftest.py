"""The soak tests run the same commands as the end-to-end tests, and share their fixtures."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

_CONFTEST = Path(__file__).parents[1] / "end_to_end/conftest.py"
_SPEC = importlib.util.spec_from_file_location("end_to_end_conftest", _CONFTEST)
assert _SPEC is not None
assert _SPEC.loader is not None
_SHARED = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_SHARED)

runs = _SHARED.runs
digits = _SHARED.digits
readme = _SHARED.readme
pictures = _SHARED.pictures
stores = _SHARED.stores
streams = _SHARED.streams
hub = _SHARED.hub


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """A module of tests/end_to_end, which importlib mode does not let test files import."""
    return _SHARED.load


CAMPAIGN = _SHARED.load("campaign", Path(__file__).parent)


@pytest.fixture
def fight(runs: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Kills so many runs of a kind, in so many processes; see Kind in tests/soak/campaign.py."""
    return partial(CAMPAIGN.fight, runs, tmp_path, CAMPAIGN.printer(capsys))


@pytest.fixture
def kind() -> type:
    """Kind of tests/soak/campaign.py."""
    return CAMPAIGN.Kind
