"""Datasets in stores that die, lie and dawdle: a stream shows the samples of the local folder, or names what is wrong.

The stores are real servers on this machine; what streams is a command of its own, with two worker processes.
"""

import random
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from data_pipeline.manifest import read_manifest
from data_pipeline.order import Plan, block_bounds

if TYPE_CHECKING:
    from tests.end_to_end import faulty_server as Faulty
    from tests.end_to_end import runs as Runs
    from tests.end_to_end import stores as Stores
    from tests.end_to_end import streams as Streams

SAMPLES, BATCH = 1200, 48
RATE = 150_000
"""Bytes a second of each connection, so that a kill comes while bytes are on their way."""
HASTY = ("--patience", 4)
TAR = "train-000001.tar"
ALONE = 4
"""Batches at the start whose samples may be read one by one, rather than wait for whole blocks."""


class Tools(NamedTuple):
    """The modules beside this file."""

    runs: "Runs"
    stores: "Stores"
    faulty: "Faulty"
    streams: "Streams"


@dataclass(frozen=True)
class Scene:
    """The dataset that is served, what an epoch of the local folder shows, and the tools to disturb it with."""

    tools: Tools
    pictures: Path
    rows: "Streams.Rows"

    @property
    def blocks(self) -> int:
        """How many the dataset is read in, which the manifest alone tells."""
        shards = read_manifest(self.pictures).split("train").shards
        counts, sizes = np.array([(shard.samples, shard.bytes) for shard in shards]).T
        return len(block_bounds(counts, sizes, Plan(lanes=self.tools.streams.LANES))) - 1

    def reads(self, store: "Stores.Store") -> tuple[int, int]:
        """Requests for blocks, and for single samples, that the store has answered."""
        sizes = [request.sent for request in store.requests(".tar")]
        return sum(size > 20_000 for size in sizes), sum(size <= 20_000 for size in sizes)

    def stream(self, data: object, folder: Path, *options: object, **environment: str) -> "Streams.Streaming":
        """Start a command that streams; its output goes into the folder."""
        return self.tools.streams.Streaming(self.tools.runs, data, folder, environment, *options)

    def assert_part(self, rows: "Streams.Rows") -> None:
        """The rows are right, and whole batches, though perhaps not all."""
        assert rows == {position: self.rows.get(position) for position in rows}
        assert len(rows) % BATCH == 0


def killed_nginx(scene: Scene, folder: Path) -> None:
    """Killed in the middle of an epoch, and back after a while: no sample is lost, repeated or altered."""
    kill_and_restart(scene, folder, scene.tools.stores.nginx(scene.pictures, folder / "store", rate=RATE))


def killed_s3(scene: Scene, folder: Path) -> None:
    kill_and_restart(scene, folder, scene.tools.stores.moto_s3(scene.pictures, folder / "store", rate=RATE))


def kill_and_restart(scene: Scene, folder: Path, store: "Stores.Store") -> None:
    with store:
        streaming = scene.stream(store.url, folder, **store.environment)
        kill_in_the_middle(scene, streaming, store)
        answered, _ = scene.reads(store)
        time.sleep(2.5)
        store.start()
        streaming.end().expect(0)
        assert scene.reads(store)[0] > answered, "nothing was asked for after the restart"
    assert streaming.rows() == scene.rows


def kill_in_the_middle(scene: Scene, streaming: "Streams.Streaming", store: "Stores.Store") -> None:
    """Kill the store while blocks are on their way, when a third of them have arrived."""
    streaming.wait_until(lambda: scene.reads(store)[0] >= scene.blocks // 3)
    store.kill()
    assert scene.reads(store)[0] < scene.blocks, "the epoch was over before it could miss the store"


def dead_nginx(scene: Scene, folder: Path) -> None:
    """Killed for good: named in time, and no row of the batches before it is wrong."""
    kill_for_good(scene, folder, scene.tools.stores.nginx(scene.pictures, folder / "store", rate=RATE))


def dead_s3(scene: Scene, folder: Path) -> None:
    kill_for_good(scene, folder, scene.tools.stores.moto_s3(scene.pictures, folder / "store", rate=RATE))


def kill_for_good(scene: Scene, folder: Path, store: "Stores.Store") -> None:
    with store:
        streaming = scene.stream(store.url, folder, *HASTY, **store.environment)
        kill_in_the_middle(scene, streaming, store)
        finished = streaming.end(timeout=60).expect(1)
    shard = r"train-00000\d\.tar"
    told = rf"stream_process\.py: shard {shard}: {re.escape(store.url)}/{shard}: stage fetch, bytes \d+ to \d+ .*\n"
    assert re.fullmatch(told, finished.err), finished.err
    assert "gave up after" in finished.err
    scene.assert_part(streaming.rows())
    said = finished.err + finished.out
    assert [secret for secret in (*scene.tools.stores.MOTO_KEYS, "AWS4-HMAC") if secret in said] == []


def wrong_once(scene: Scene, folder: Path) -> None:
    """Half of the first answers are altered, cut off, of other bytes, the whole file, or a plea to come again."""
    kinds = ("altered", "short", "elsewhere", "whole", "busy")

    def fault(path: str, start: int, before: int) -> "Faulty.Fault":
        dice = random.Random(f"{path} {start}")
        return dice.choice(kinds) if path.endswith(".tar") and before == 0 and dice.random() < 0.5 else ""

    with scene.tools.faulty.FaultyServer(scene.pictures, fault) as server:
        streaming = scene.stream(server.url, folder)
        streaming.end().expect(0)
    assert streaming.rows() == scene.rows
    met = {request.fault for request in server.requests()} - {""}
    assert met == set(kinds), "these faults never came about"


def index_altered_once(scene: Scene, folder: Path) -> None:
    def fault(path: str, start: int, before: int) -> "Faulty.Fault":
        return "altered" if path.endswith(".npy") and before == 0 else ""

    with scene.tools.faulty.FaultyServer(scene.pictures, fault) as server:
        streaming = scene.stream(server.url, folder)
        streaming.end().expect(0)
    assert streaming.rows() == scene.rows
    assert any(request.fault for request in server.requests(".npy"))


def altered_for_good(scene: Scene, folder: Path) -> None:
    """Named with shard, bytes, URL and repair, after a few tries of each worker and of who fetches ahead."""

    def fault(path: str, start: int, before: int) -> "Faulty.Fault":
        return "altered" if path == TAR else ""

    with scene.tools.faulty.FaultyServer(scene.pictures, fault) as server:
        streaming = scene.stream(server.url, folder)
        finished = streaming.end().expect(1)
    told = rf"stream_process\.py: shard {TAR}: sample \d+, bytes (\d+) to (\d+), stage read: checksum .*\n"
    found = re.fullmatch(told, finished.err)
    assert found is not None, finished.err
    assert f"{server.url}/{TAR}; rewrite it with: python data_pipeline/shard.py " in finished.err
    asked = [request for request in server.requests(TAR) if request.start <= int(found[1]) < request.stop]
    assert 2 <= len(asked) <= 12, asked
    scene.assert_part(streaming.rows())


def silent_for_good(scene: Scene, folder: Path) -> None:
    """A server that takes requests and never answers is given up like a dead one."""

    def fault(path: str, start: int, before: int) -> "Faulty.Fault":
        return "silent" if path == TAR else ""

    with scene.tools.faulty.FaultyServer(scene.pictures, fault) as server:
        streaming = scene.stream(server.url, folder, *HASTY)
        finished = streaming.end(timeout=60).expect(1)
    where = rf"shard {TAR}: {re.escape(server.url)}/{TAR}"
    told = rf"stream_process\.py: {where}: stage fetch, bytes \d+ to \d+ \(0 arrived\): .*\n"
    assert re.fullmatch(told, finished.err), finished.err
    scene.assert_part(streaming.rows())


def never_twice(scene: Scene, folder: Path) -> None:
    """A request for each block, on any number of ranks; one more where a border between lanes cuts a block in two."""
    total = read_manifest(scene.pictures).split("train").bytes
    batch = 12
    with scene.tools.stores.nginx(scene.pictures, folder / "store") as store:
        for world in (1, 2):
            store.forget()
            options = ("--batch-size", batch, "--world", world)
            ranks = [scene.stream(store.url, folder, *options, "--rank", rank) for rank in range(world)]
            rows: Streams.Rows = {}
            for rank in ranks:
                rank.end().expect(0)
                rows |= rank.rows()
            assert rows == scene.rows
            assert {(request.method, request.status) for request in store.requests(".tar")} == {("GET", 206)}
            blocks, alone = scene.reads(store)
            assert scene.blocks <= blocks <= scene.blocks + scene.tools.streams.LANES - 1
            assert alone <= ALONE * batch
            sent = sum(request.sent for request in store.requests())
            assert sent <= 1.1 * total, f"{sent / total:.3f} of the dataset's bytes on {world} rank(s)"


def cached_on_the_node(scene: Scene, folder: Path) -> None:
    """A cache that stays is filled once, and mended where it is damaged."""
    cache = folder / "cache"
    with scene.tools.stores.nginx(scene.pictures, folder / "store") as store:

        def stream(*options: object) -> "tuple[Streams.Rows, int]":
            """The rows, and the requests for blocks and indexes that it took."""
            store.forget()
            streaming = scene.stream(store.url, folder, *options, SHERD_CACHE=str(cache))
            streaming.end().expect(0)
            return streaming.rows(), scene.reads(store)[0] + len(store.requests(".npy"))

        rows, asked = stream("--epochs", 2)
        assert {position: row for position, row in rows.items() if position < SAMPLES} == scene.rows
        assert len(rows) == 2 * SAMPLES
        indexes = len(read_manifest(scene.pictures).split("train").shards)
        assert asked == scene.blocks + indexes, "what was in the cache was asked for again"
        rows, asked = stream()
        assert rows == scene.rows
        assert asked == 0, "the second run asked again"

        entries = sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 50_000)
        whole = {path: path.read_bytes() for path in entries}
        damaged = random.Random(0).sample(entries, 3)
        for entry in damaged:
            data = bytearray(whole[entry])
            data[:: len(data) // 7] = bytes(len(data[:: len(data) // 7]))
            entry.write_bytes(data)
        rows, asked = stream()
        assert rows == scene.rows
        assert asked == len(damaged)
        assert {path: path.read_bytes() for path in entries} == whole, "the damaged entries were not mended"


Case = Callable[[Scene, Path], None]
CASES: tuple[Case, ...] = (
    killed_nginx,
    killed_s3,
    dead_nginx,
    dead_s3,
    cached_on_the_node,
    never_twice,
    wrong_once,
    index_altered_once,
    altered_for_good,
    silent_for_good,
)


@pytest.fixture(scope="module")
def tools(runs: "Runs", stores: "Stores", faulty: "Faulty", streams: "Streams") -> Tools:
    return Tools(runs, stores, faulty, streams)


@pytest.fixture(scope="module")
def scene(tools: Tools, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    local = tools.streams.Streaming(tools.runs, pictures, tmp_path_factory.mktemp("local"), {}, "--workers", 0)
    local.end().expect(0)
    rows = local.rows()
    assert sorted(sample for sample, _, _ in rows.values()) == list(range(SAMPLES))
    assert len({pixels for _, _, pixels in rows.values()}) == SAMPLES
    return Scene(tools, pictures, rows)


@pytest.fixture(scope="module")
def outcomes(
    scene: Scene, side_by_side: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Future[None]]:
    """All cases, some at a time; each test waits for its own."""
    return {case: side_by_side.submit(case, scene, tmp_path_factory.mktemp(case.__name__)) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_stores(outcomes: dict[Case, Future[None]], case: Case) -> None:
    outcomes[case].result()
