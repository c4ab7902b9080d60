"""What tests of whole commands share: how to run them, a small dataset, and a run that nothing disturbed."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image


def load(name: str, folder: Path = Path(__file__).parent) -> ModuleType:
    """A module beside tests, which importlib mode does not let test files import."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


_RUNS = load("runs")
_STORES = load("stores")


@pytest.fixture(scope="session")
def runs() -> Iterator[ModuleType]:
    """tests/end_to_end/runs.py; at the end whatever still runs is killed."""
    yield _RUNS
    _RUNS.end_all()


@pytest.fixture(scope="session")
def stores() -> Iterator[ModuleType]:
    """tests/end_to_end/stores.py; at the end whatever still runs is killed."""
    yield _STORES
    for store in _STORES.STARTED:
        store.kill()


@pytest.fixture(scope="session")
def faulty() -> ModuleType:
    """tests/end_to_end/faulty_server.py."""
    return load("faulty_server")


@pytest.fixture(scope="session")
def streams() -> ModuleType:
    """tests/end_to_end/streams.py."""
    return load("streams")


@pytest.fixture(scope="session")
def readme() -> ModuleType:
    """tests/end_to_end/readme.py."""
    return load("readme")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits, sharded by the real command."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    words = _RUNS.python(_RUNS.ROOT / "data_pipeline/shard.py", "--source", "digits", "--out", folder, "--workers", 1)
    _RUNS.Child(words, folder.parent / "shard", cold=True).wait().expect(0)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 JPEGs of noise in three classes, 7 MB in three shards, by the real command."""
    folder = tmp_path_factory.mktemp("served") / "pictures"
    source = folder.parent / "images"
    noise = np.random.default_rng(0)
    for number in range(1200):
        image = Image.fromarray(noise.integers(0, 256, (64, 64, 3), np.uint8))
        path = source / f"class {number % 3}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=85)
    options = ("--source", source, "--out", folder, "--shard-size", 1_500_000, "--workers", 1)
    words = _RUNS.python(_RUNS.ROOT / "data_pipeline/shard.py", *options)
    _RUNS.Child(words, folder.parent / "shard").wait().expect(0)
    return folder


@pytest.fixture(scope="session")
def undisturbed(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run from beginning to end, with all checkpoints; others, most of them forks, are compared with it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = _RUNS.ended(_RUNS.train(digits, folder, "--keep-checkpoints", 100, cold=True), folder)
    assert finished.err == ""
    return folder


@pytest.fixture(scope="session")
def side_by_side() -> Iterator[ThreadPoolExecutor]:
    """Three scenarios at a time: most of each is the start of Python, one core's work, and now and then it waits.

    Two where another worker of pytest-xdist has as many.
    """
    with ThreadPoolExecutor(2 if "PYTEST_XDIST_WORKER" in os.environ else 3) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def hub() -> Iterator[Any]:
    """A stand-in for the Hub on this machine, empty, which takes uploads."""
    stand_in, uploads = load("hub_stand_in"), load("hub_uploads")
    found = stand_in.HubStandIn({})
    uploads.accept(stand_in, found)
    with stand_in.serve(found):
        yield found


@pytest.fixture(scope="session")
def stock_here() -> ModuleType:
    """tests/end_to_end/stock_here.py."""
    return load("stock_here")


@pytest.fixture
def stock_in_this_process(stock_here: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishing's stock libraries in this process, which has loaded them: several seconds sooner."""
    stock_here.install(monkeypatch)
