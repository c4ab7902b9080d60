"""Credentials of a store, in its URL: used, and found nowhere in what a run says and leaves."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end import runs as Runs
    from tests.end_to_end import stores as Stores
    from tests.end_to_end import streams as Streams

PASSWORD, SIGNATURE = "not-so-secret-word", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def tellers(texts: Mapping[str, str], secrets: tuple[str, ...]) -> list[str]:
    """Names of the texts in which one of these stands, with the line."""
    lines = [(name, line) for name, text in texts.items() for line in text.splitlines()]
    return [f"{name}: {line.strip()}" for name, line in lines if any(secret in line for secret in secrets)]


@pytest.fixture
def store(stores: "Stores", digits: Path, tmp_path: Path) -> "Iterator[Stores.Store]":
    """The digits, for those alone who have password and signature."""
    query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={SIGNATURE}"
    with stores.nginx(digits, tmp_path / "store", user=("anna", PASSWORD), query=query) as store:
        yield store


def test_training_from_a_store(
    runs: "Runs", streams: "Streams", store: "Stores.Store", undisturbed: Path, tmp_path: Path
) -> None:
    """The run equals that of the local folder, bit for bit; no credential is in what it leaves or says."""
    texts: dict[str, str] = {}
    assert PASSWORD in store.url
    assert SIGNATURE in store.url
    run = runs.train(store.url, tmp_path / "run", "--keep-checkpoints", 100)
    finished = run.wait().expect(0)
    assert run.is_gone(), f"processes remain: {run.members()}"
    runs.assert_same(tmp_path / "run", undisturbed)
    assert {request.user for request in store.requests() if request.status < 300} == {"anna"}
    texts["what the run said"] = finished.out + finished.err
    for wrong in (store.url.replace(PASSWORD, f"{PASSWORD}-not"), store.url.replace("&", "&more=1&")):
        refused = streams.Streaming(runs, wrong, tmp_path, {}, "--patience", 1000).end(timeout=60).expect(1)
        told = r"stream_process\.py: http://127\.0\.0\.1:\d+/digits/manifest\.json: .*40[13].*\n"
        assert re.fullmatch(told, refused.err), refused.err
        texts[wrong] = refused.err + refused.out
    store.kill()
    dead = streams.Streaming(runs, store.url, tmp_path, {}, "--patience", 4).end().expect(1)
    texts["without the store"] = dead.err + dead.out
    files = runs.contents(tmp_path / "run")
    assert "config.json" in files
    texts |= {name: data.decode("latin-1") for name, data in files.items()}
    assert tellers(texts, (PASSWORD, SIGNATURE, "X-Amz-Signature")) == []
