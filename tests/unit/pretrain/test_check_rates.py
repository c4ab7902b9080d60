"""Who waits for whom: measured on a small dataset, and judged by fixed values."""

from pathlib import Path
from types import ModuleType

import pytest

from data_pipeline.augment import RandomResizedCrop
from data_pipeline.manifest import DatasetError
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream
from pretrain.check_rates import Loaded, Read, judge_loading, judge_reading, measure_loading, measure_reading

READ = Read(bytes=11_000_000_000, images=100_000, seconds=10.0, total=140_000_000_000, is_remote=False)


def test_every_block_is_read_once(datasets: ModuleType, tmp_path: Path):
    manifest = datasets.write_dataset(tmp_path, [10, 7, 1])
    found = measure_reading(Part(manifest, "train"), Plan(lanes=4))
    assert found.images == 18
    assert found.total == manifest.split("train").bytes
    assert 18 * 512 < found.bytes < found.total  # a header each, but not the tars' ends
    assert not found.is_remote


def test_a_shard_that_is_gone_is_told_of(datasets: ModuleType, tmp_path: Path):
    manifest = datasets.write_dataset(tmp_path, [3])
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(DatasetError, match="missing"):
        measure_reading(Part(manifest, "train"), Plan(lanes=4))


def test_a_stream_alone(datasets: ModuleType, tmp_path: Path):
    part = Part(datasets.write_dataset(tmp_path, [10]), "train")
    stream = Stream([part], RandomResizedCrop((8, 8)), batch_size=4, seed=0)
    found = measure_loading(stream, workers=0, seconds=0.05)
    assert found.rate > 0
    assert found.slowest in ("read", "decode", "resize", "augment", "write", "other")


def test_reading():
    found = judge_reading(READ, 1_000.0, 8, read_factor=1, memory=10**11, measured_on="on a GPU")
    assert (found.verdict, found.measured) == ("ok", "1.1 GB/s of files, 110 kB an image")
    assert found.needed == "880 MB/s a node: 8 x 1,000 images/s on a GPU"
    slow = judge_reading(READ, 1_000.0, 8, read_factor=2, memory=10**11, measured_on="on a GPU")
    assert (slow.verdict, slow.needed.partition(":")[0]) == ("warning", "1.8 GB/s a node")
    assert slow.fix.startswith("a faster disk")


def test_files_that_fit_the_memory_are_read_once():
    found = judge_reading(READ, 10_000.0, 8, read_factor=1, memory=10**12, measured_on="on a GPU")
    assert found.verdict == "ok"
    assert found.measured.endswith("; all 140 GB stay in memory after one epoch")


def test_a_store_is_not_held_in_memory():
    store = Read(READ.bytes, READ.images, READ.seconds, total=1000, is_remote=True)
    found = judge_reading(store, 10_000.0, 8, read_factor=1, memory=10**12, measured_on="on a GPU")
    assert (found.verdict, found.measured) == ("warning", "1.1 GB/s of the store, 110 kB an image")
    assert found.fix.startswith("SHERD_CACHE")


def test_a_loader_that_keeps_up():
    found = judge_loading(Loaded(2_000.0, 4, "decode"), 1_000.0, 8, 96, measured_on="on a GPU")
    assert (found.verdict, found.measured) == (
        "ok",
        "2,000 images/s in each process by 4 workers, most of it decode: the step binds",
    )
    assert judge_loading(Loaded(970.0, 4, "decode"), 1_000.0, 8, 96, measured_on="on a GPU").verdict == "ok"


def test_a_loader_that_is_waited_for():
    found = judge_loading(Loaded(500.0, 4, "decode"), 1_000.0, 8, 96, measured_on="on a GPU")
    assert found.verdict == "warning"
    assert found.measured.endswith(": training waits 50% of the time")
    assert found.needed == "1,000 images/s, as a step takes on a GPU"
    assert found.fix.startswith("--workers 8, ")
    few_cores = judge_loading(Loaded(500.0, 4, "decode"), 1_000.0, 8, 64, measured_on="on a GPU")
    assert "--workers" not in few_cores.fix
