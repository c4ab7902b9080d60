"""Workers: the memory they share, which of them is slow, and errors that arrive as what they are."""

import importlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from data_pipeline.augment import CenterCrop, MultiView
from data_pipeline.location import StoreError
from data_pipeline.manifest import DatasetError, Manifest, sample_starts
from data_pipeline.order import Located
from data_pipeline.reading import Access
from data_pipeline.ring import DECODE, READ, START, WAIT, Doing, Layout, Ring, Status
from data_pipeline.rows import Part, RowFiller, describe, rows_of
from data_pipeline.stream import Stream

MakeDataset = Callable[..., Manifest]

# What workers unpickle they must be able to import, which test files are not.
VIEWS = """
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.augment import CenterCrop
from data_pipeline.location import StoreError


@dataclass(frozen=True)
class Held(CenterCrop):
    while_it_exists: Path | None = None

    def draw(self, draws, width, height):
        while self.while_it_exists is not None and self.while_it_exists.exists():
            time.sleep(0.005)
        return super().draw(draws, width, height)


class AwkwardError(OSError):
    def __init__(self, url, code):
        super().__init__(f"{url} answers {code}")


@dataclass(frozen=True)
class Failing(CenterCrop):
    how: str = ""

    def draw(self, draws, width, height):
        if self.how == "store":
            raise StoreError("read: s3://bucket/train-000000.tar, bytes 0 to 512: 5 tries, connection refused")
        if self.how == "disk":
            raise OSError(5, "Input/output error", "/data/train-000000.tar")
        if self.how == "awkward":
            raise AwkwardError("s3://bucket", 503)
        raise ValueError("a mistake in a view")
"""


@pytest.fixture
def views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    folder = tmp_path / "importable"
    folder.mkdir()
    (folder / "views_for_workers.py").write_text(VIEWS)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "views_for_workers", raising=False)
    return importlib.import_module("views_for_workers")


def wait_for_workers(stream: Stream) -> None:
    """Until then the stream's process fills batches itself."""
    pool = stream._filling._pool
    while len(pool._started) < len(pool._processes):  # type: ignore[union-attr]
        pool._receive(1.0)  # type: ignore[union-attr]


def part(manifest: Manifest) -> Part:
    return Part(manifest, "train")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_rings_arrays_are_apart_aligned_and_fit(dtype: str):
    layout = Layout(5, ((2, 3, 7), (1, 2, 2)), 13, dtype)
    memory = bytearray(Ring.bytes(3, layout))
    ring = Ring(memory, 3, layout)
    arrays = (ring.labels, *ring.views)
    assert [array.shape for array in arrays] == [(3, 5), (3, 5, 2, 3, 7, 13), (3, 5, 1, 2, 2, 13)]
    assert [array.dtype for array in arrays] == [np.dtype(np.int64), np.dtype(dtype), np.dtype(dtype)]
    for number, array in enumerate(arrays):
        assert array.flags.aligned
        array[:] = number + 1
    assert [set(array.ravel().tolist()) for array in arrays] == [{1}, {2}, {3}]
    again = Ring(memory, 3, layout)  # as another process sees it
    assert again.views[1].sum() == 3 * again.views[1].size


def test_a_status_keeps_what_each_worker_noted():
    status = Status(bytearray(Status.bytes(2)))
    status.note(1)(READ, 3, 2**40, 5, 1.25)
    assert status.of(0) == (START, 0, 0, 0, 0.0)
    assert status.of(1) == Doing(READ, 3, 2**40, 5, 1.25)


def test_what_a_worker_is_busy_with_is_said_in_words(make_dataset: MakeDataset):
    one, two = part(make_dataset([5, 5])), part(make_dataset([5, 30]))
    doing = Doing(READ, 0, 1, 4, 0.0)
    assert describe([one], doing) == "with sample 4 of shard train-000001.tar, stage read"
    assert describe([one, two], doing._replace(dataset=1, index=17, stage=DECODE)) == (
        f"with sample 17 of shard train-000001.tar of {two.manifest.folder}, stage decode"
    )
    assert describe([one], doing._replace(stage=START)) == "starting"
    assert describe([one], doing._replace(stage=WAIT)) == "taking up what was asked of it"


def test_stages_are_noted_before_they_begin(make_dataset: MakeDataset):
    manifest = make_dataset([3, 4])
    view = MultiView(((CenterCrop((8, 8)), 1), (CenterCrop((4, 4)), 2)))
    samples = np.array([5, 1])
    located = Located(np.zeros_like(samples), samples, np.zeros_like(samples), np.zeros_like(samples))
    shown = [np.zeros((2, 1, 8, 8, 3), np.uint8), np.zeros((2, 2, 4, 4, 3), np.uint8)]
    noted: list[Doing] = []
    begin = time.perf_counter()
    RowFiller([part(manifest)], view, 0, Access((None,))).fill(
        rows_of([sample_starts(manifest.split("train"))], located),
        shown,
        np.zeros(2, np.int64),
        lambda *doing: noted.append(Doing(*doing)),
    )
    assert [doing[:4] for doing in noted] == [
        (READ, 0, 1, 2),
        (DECODE, 0, 1, 2),
        (READ, 0, 0, 1),
        (DECODE, 0, 0, 1),
    ]
    assert begin <= noted[0].since <= noted[-1].since <= time.perf_counter()
    assert [array[:, -1, 0, 0, 0].tolist() for array in shown] == [[5, 1], [5, 1]]


def test_a_slow_worker_is_named_again_and_again_until_it_goes_on(
    make_dataset: MakeDataset, views: ModuleType, tmp_path: Path
):
    flag = tmp_path / "held"
    messages: list[str] = []

    def say(message: str) -> None:
        messages.append(message)
        if flag.exists() and sum("stage decode" in message for message in messages) >= 2:
            flag.unlink()

    stream = Stream(
        [part(make_dataset([40]))],
        views.Held((8, 8), while_it_exists=flag),
        batch_size=8,
        seed=0,
        workers=2,
        prefetch=1,
        epochs=1,
        say=say,
        patience=0.02,
    )
    batches = iter(stream)
    next(batches)
    wait_for_workers(stream)
    flag.touch()
    assert len(list(batches)) == 4
    held = [message for message in messages if "stage decode" in message]
    assert len(held) >= 2
    pattern = re.compile(
        r"loader worker (\d) \(pid (\d+)\) has been busy for \d+ s with sample \d+ of shard train-000000\.tar, "
        r"stage decode; waiting for \d+ s"
    )
    for message in held:
        named = pattern.fullmatch(message)
        assert named is not None
        assert stream._filling._pool._processes[int(named[1])].pid == int(named[2])
    stream.close()


def test_by_default_a_slow_worker_is_a_warning(make_dataset: MakeDataset, views: ModuleType, tmp_path: Path):
    flag = tmp_path / "held"
    view = views.Held((8, 8), while_it_exists=flag)
    stream = Stream([part(make_dataset([80]))], view, batch_size=8, seed=0, workers=1, epochs=1, patience=0.01)
    batches = iter(stream)
    next(batches)
    wait_for_workers(stream)
    flag.touch()
    with pytest.raises(RuntimeWarning, match=r"loader worker 0 \(pid \d+\) has been busy for \d+ s .*; waiting for"):
        list(batches)  # the tests turn warnings into errors
    flag.unlink()
    stream.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_another_thread_may_ask_what_a_batch_waits_for(
    workers: int, make_dataset: MakeDataset, views: ModuleType, tmp_path: Path
):
    flag = tmp_path / "held"
    view = views.Held((8, 8), while_it_exists=flag)
    stream = Stream([part(make_dataset([80]))], view, batch_size=8, seed=0, workers=workers, epochs=1, say=print)
    assert stream.busy() == "the loader is closed"
    batches = iter(stream)
    next(batches)
    if workers > 0:
        wait_for_workers(stream)
    flag.touch()
    taking = threading.Thread(target=lambda: list(batches))
    taking.start()
    who = r"loader worker 0 \(pid \d+\) has been busy for 0 s" if workers > 0 else "this process is busy"
    pattern = re.compile(rf"{who} with sample \d+ of shard train-000000\.tar, stage decode")
    deadline = time.monotonic() + 20
    while not pattern.fullmatch(stream.busy()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pattern.fullmatch(stream.busy())
    flag.unlink()
    taking.join()
    stream.close()


def test_patience_grows_with_the_waiting(
    make_dataset: MakeDataset, views: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By a clock of its own, which stands still but for the waiting."""
    flag = tmp_path / "held"
    now = 1000.0
    told: list[float] = []

    def say(message: str) -> None:
        told.append(now - 1000)
        if len(told) == 5:
            flag.unlink()

    view = views.Held((8, 8), while_it_exists=flag)
    stream = Stream([part(make_dataset([80]))], view, batch_size=8, seed=0, workers=1, epochs=1, say=say, patience=0.25)
    batches = iter(stream)
    next(batches)
    wait_for_workers(stream)
    pool = stream._filling._pool
    receive = pool._receive  # type: ignore[union-attr]

    def wait_in_vain(seconds: float) -> None:
        nonlocal now
        if flag.exists():
            now += seconds
        else:
            receive(seconds)

    flag.touch()
    monkeypatch.setattr("data_pipeline.workers.perf_counter", lambda: now)
    monkeypatch.setattr(pool, "_receive", wait_in_vain)
    assert len(list(batches)) == 9
    assert told == [0.25, 0.5, 1, 2, 4]
    stream.close()


def test_a_worker_that_never_goes_on_is_ended_with_the_stream(
    make_dataset: MakeDataset, views: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("data_pipeline.workers._SECONDS_TO_END", 0.1)
    flag = tmp_path / "held"

    def say(message: str) -> None:
        if flag.exists() and "stage decode" in message:
            raise LookupError("waited for long enough")

    view = views.Held((8, 8), while_it_exists=flag)
    stream = Stream([part(make_dataset([8]))], view, batch_size=8, seed=0, workers=1, say=say, patience=0.01)
    batches = iter(stream)
    next(batches)
    wait_for_workers(stream)
    flag.touch()
    process = stream._filling._pool._processes[0]
    with pytest.raises(LookupError, match="long enough"):
        list(batches)
    stream.close()
    process.join(timeout=10)
    assert process.exitcode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_stores_and_disks_arrive_as_themselves(make_dataset: MakeDataset, views: ModuleType, workers: int):
    def error_of(how: str) -> Exception:
        view = views.Failing((8, 8), how=how)
        stream = Stream([part(make_dataset([8]))], view, batch_size=8, seed=0, workers=workers)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is looked at below
            next(iter(stream))
        assert stream._filling is None or workers == 0
        return caught.value

    store, disk, awkward, mistake = (error_of(how) for how in ("store", "disk", "awkward", "mistake"))
    assert type(store) is StoreError
    assert str(store) == "read: s3://bucket/train-000000.tar, bytes 0 to 512: 5 tries, connection refused"
    assert (type(disk), disk.errno, disk.filename) == (OSError, 5, "/data/train-000000.tar")  # type: ignore[attr-defined]
    if workers:
        for error, message in ((awkward, "AwkwardError: s3://bucket answers 503"), (mistake, "ValueError: a mistake")):
            assert type(error) is RuntimeError
            assert str(error).startswith("a loader worker failed:\nTraceback")
            assert message in str(error)
    else:
        assert (type(awkward), type(mistake)) == (views.AwkwardError, ValueError)


def test_errors_of_the_dataset_arrive_as_themselves(make_dataset: MakeDataset):
    manifest = make_dataset([20])
    (manifest.folder / "train-000000.tar").unlink()  # type: ignore[union-attr]
    stream = Stream([part(manifest)], CenterCrop((8, 8)), batch_size=4, seed=0, workers=1)
    with pytest.raises(DatasetError, match=r"train-000000\.tar"):
        next(iter(stream))


def test_batches_stay_as_they_were_when_the_ring_turns(make_dataset: MakeDataset):
    stream = Stream(
        [part(make_dataset([40]))], CenterCrop((8, 8)), batch_size=4, seed=0, workers=1, prefetch=1, epochs=2
    )
    kept = list(stream)
    again = list(Stream([part(make_dataset([40]))], CenterCrop((8, 8)), batch_size=4, seed=0, epochs=2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(kept, again, strict=True))
    stream.close()


def test_a_killed_worker_is_reported_and_not_waited_for(make_dataset: MakeDataset):
    stream = Stream([part(make_dataset([50]))], CenterCrop((8, 8)), batch_size=10, seed=0, workers=2)
    iterator = iter(stream)
    next(iterator)
    wait_for_workers(stream)
    pool = stream._filling._pool
    os.kill(pool._processes[1].pid, signal.SIGKILL)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match=r"loader worker 1 \(pid \d+\) died"):
        list(itertools.islice(iterator, 50))
