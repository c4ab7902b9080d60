"""Garbage is looked for again after the imports, also where one fails."""

import gc

import pytest

from launch.start_up import without_collection


def fail() -> None:
    raise ImportError("no such library")


def test_nobody_looks_for_garbage_inside_and_everybody_does_afterwards():
    assert gc.isenabled()
    frozen = gc.get_freeze_count()
    with without_collection():
        assert not gc.isenabled()
        kept = [[] for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= frozen + len(kept)
    with pytest.raises(ImportError, match="no such library"), without_collection():
        fail()
    assert gc.isenabled()
    gc.unfreeze()
