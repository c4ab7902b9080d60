"""Damage anywhere in a shard: an epoch shows the samples that were written, or ends in an error that names the place.

What is damaged is drawn from the seed in the test's name. SHERD_FUZZ_SEEDS=2000 tries more of them than the usual few.
"""

import os
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from data_pipeline.augment import CenterCrop
from data_pipeline.manifest import DatasetError, Manifest, open_index, read_manifest, write_manifest
from data_pipeline.order import Plan
from data_pipeline.rows import Part
from data_pipeline.stream import Stream

SEEDS = range(int(os.environ.get("SHERD_FUZZ_SEEDS", "30")))
SHARDS = (5, 7, 6)
TAR, INDEX = "train-000001.tar", "train-000001.npy"
MakeDataset = Callable[..., Manifest]


class Epoch(NamedTuple):
    """What an epoch showed: (label, pixels) of each sample in the order of showing, and how it ended."""

    shown: list[tuple[int, int, bytes]]
    substituted: dict[int, int]
    error: str


def stream_epoch(folder: Path) -> Epoch:
    """Stream an epoch until its end or a DatasetError; anything else that is raised fails the test."""
    shown, error = [], ""
    part = Part(read_manifest(folder), "train")
    stream = Stream([part], CenterCrop((8, 8)), batch_size=3, seed=0, plan=Plan(lanes=4), epochs=1)
    samples = stream.epoch_positions
    try:
        for batch in stream:
            rows = zip(batch.samples.tolist(), batch.labels.tolist(), batch.images, strict=True)
            shown += [(sample, label, image.numpy().tobytes()) for sample, label, image in rows]
    except DatasetError as raised:
        error = str(raised)
    substituted = {sample: other for _, sample, other, _ in stream.state()["substitutions"]}
    return Epoch(shown[:samples], substituted, error)


def written(sample: int, substituted: dict[int, int]) -> tuple[int, int, bytes]:
    """What `write_dataset` has written as this sample, or as the one that stands in for it."""
    source = substituted.get(sample, sample)
    pixels = np.empty((8, 8, 3), np.uint8)
    pixels[:] = (source % 256, source // 256 % 256, source // 65536)
    return sample, source % 10, pixels.tobytes()


def check(epoch: Epoch, samples: int, what: str) -> None:
    """No wrong sample, none twice, and none missing unless there is an error."""
    numbers = [sample for sample, _, _ in epoch.shown]
    assert len(set(numbers)) == len(numbers), f"{what}: a sample is shown twice"
    assert epoch.shown == [written(sample, epoch.substituted) for sample in numbers], what
    assert epoch.error or sorted(numbers) == list(range(samples)), f"{what}: samples are missing, and no error"


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Manifest:
    manifest = make_dataset(SHARDS)
    write_manifest(manifest)
    return manifest


def folder_of(manifest: Manifest) -> Path:
    """Where a local dataset lies."""
    assert isinstance(manifest.folder, Path)
    return manifest.folder


def images_of(manifest: Manifest, shard: int = 1) -> np.ndarray:
    """Start and end of each image in the shard's tar: (samples, 2)."""
    index = open_index(manifest, manifest.split("train").shards[shard])
    return np.stack([index["image_offset"], index["image_offset"] + index["image_length"]], axis=1).astype(int)


def flip(path: Path, offsets: list[int], dice: random.Random) -> None:
    """Change a bit, or several, of the bytes at these offsets."""
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= dice.randrange(1, 256)
    path.write_bytes(data)


def test_the_dataset_is_as_it_was_written(dataset: Manifest) -> None:
    epoch = stream_epoch(folder_of(dataset))
    check(epoch, sum(SHARDS), "undamaged")
    assert epoch.error == ""
    assert len(epoch.shown) == sum(SHARDS)


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_of_a_tar_flipped_anywhere(dataset: Manifest, seed: int) -> None:
    """In an image it is an error that names its bytes; elsewhere the stream need not notice."""
    dice = random.Random(seed)
    images, path = images_of(dataset), folder_of(dataset) / TAR
    intact = path.read_bytes()
    for _ in range(4):
        offsets = dice.sample(range(len(intact)), dice.choice((1, 1, 2, 20)))
        hit = {(start, end) for start, end in images.tolist() if any(start <= offset < end for offset in offsets)}
        flip(path, offsets, dice)
        epoch = stream_epoch(folder_of(dataset))
        check(epoch, sum(SHARDS), f"bytes {sorted(offsets)} flipped")
        assert epoch.substituted == {}
        if hit:
            found = re.search(rf"shard {TAR}: sample \d+, bytes (\d+) to (\d+), stage ", epoch.error)
            assert found is not None, f"bytes {sorted(offsets)} flipped: {epoch.error!r}"
            assert (int(found[1]), int(found[2])) in hit
        elif epoch.error:
            assert TAR in epoch.error
        path.write_bytes(intact)


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_of_an_index_flipped_anywhere(dataset: Manifest, seed: int) -> None:
    dice = random.Random(seed)
    path = folder_of(dataset) / INDEX
    offsets = dice.sample(range(path.stat().st_size), dice.choice((1, 1, 2, 20)))
    flip(path, offsets, dice)
    epoch = stream_epoch(folder_of(dataset))
    check(epoch, sum(SHARDS), f"bytes {sorted(offsets)} of the index flipped")
    assert f"index {INDEX}: " in epoch.error
    assert f"--only {TAR}" in epoch.error


@pytest.mark.parametrize("seed", SEEDS)
def test_bytes_of_the_manifest_flipped_anywhere(dataset: Manifest, seed: int) -> None:
    """Refused, or of no consequence for the samples."""
    dice = random.Random(seed)
    path = folder_of(dataset) / "manifest.json"
    intact = path.read_bytes()
    for _ in range(10):
        offset = dice.randrange(len(intact))
        flip(path, [offset], dice)
        refused = ""
        epoch = Epoch([], {}, "")
        try:
            epoch = stream_epoch(folder_of(dataset))
        except ValueError as error:
            refused = str(error)
        if refused:
            assert str(path) in refused
        else:
            check(epoch, sum(SHARDS), f"byte {offset} of the manifest flipped: {path.read_bytes()!r}")
        path.write_bytes(intact)


def test_a_tar_cut_anywhere(dataset: Manifest) -> None:
    """At every border of members, in the zeros at the end and at random places."""
    path = folder_of(dataset) / TAR
    intact = path.read_bytes()
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar.getmembers()]
    dice = random.Random(0)
    zeros = [len(intact) - 512, len(intact) - 1]
    for size in [*headers, *zeros, *(dice.randrange(1, len(intact)) for _ in range(30))]:
        path.write_bytes(intact[:size])
        epoch = stream_epoch(folder_of(dataset))
        check(epoch, sum(SHARDS), f"cut at {size}")
        assert f"shard {TAR}: manifest lists {len(intact)} bytes, found {size}; rewrite it with: " in epoch.error


@pytest.mark.parametrize("seed", SEEDS[:10])
def test_what_is_moved_within_a_tar_is_noticed(dataset: Manifest, seed: int) -> None:
    """Every byte of the tar is there, at another place: two samples have changed theirs."""
    path = folder_of(dataset) / TAR
    index = np.array(open_index(dataset, dataset.split("train").shards[1]))
    assert len(set(index["length"].tolist())) == 1, "samples of several lengths cannot simply change places"
    one, other = random.Random(seed).sample(range(len(index)), 2)
    data = bytearray(path.read_bytes())
    spans = [slice(int(index[row]["offset"]), int(index[row]["offset"] + index[row]["length"])) for row in (one, other)]
    data[spans[0]], data[spans[1]] = data[spans[1]], data[spans[0]]
    path.write_bytes(data)
    epoch = stream_epoch(folder_of(dataset))
    check(epoch, sum(SHARDS), f"samples {one} and {other} changed places")
    assert re.search(rf"shard {TAR}: sample ({one}|{other}), bytes \d+ to \d+, stage ", epoch.error)


def test_shards_that_changed_names_are_noticed(make_dataset: MakeDataset) -> None:
    """Both have the size that the manifest lists."""
    manifest = make_dataset([6, 6])
    write_manifest(manifest)
    first, second = (folder_of(manifest) / shard.file for shard in manifest.split("train").shards)
    assert first.stat().st_size == second.stat().st_size
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    epoch = stream_epoch(folder_of(manifest))
    check(epoch, 12, "tars changed names")
    assert re.search(r"shard train-00000[01]\.tar: sample \d+, bytes \d+ to \d+, stage ", epoch.error)


def test_only_bytes_that_match_their_checksum_are_substituted(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """A sample that was written undecodable has a stand-in; once its bytes are altered as well, it is an error."""
    broken = 777
    manifest = make_dataset([500, 501], broken=[broken])
    write_manifest(manifest)
    epoch = stream_epoch(folder_of(manifest))
    check(epoch, 1001, "one sample does not decode")
    assert epoch.error == ""
    assert epoch.substituted == {broken: broken + 1}
    images = images_of(manifest)
    dice = random.Random(1)
    for row in (broken - 500, *dice.sample(range(501), 3)):
        copy = tmp_path / f"altered-{row}"
        shutil.copytree(folder_of(manifest), copy)
        start, end = images[row].tolist()
        flip(copy / TAR, [dice.randrange(start, end)], dice)
        epoch = stream_epoch(copy)
        check(epoch, 1001, f"sample {row} of the shard altered")
        assert set(epoch.substituted) <= {broken}
        assert f"shard {TAR}: sample {row}, bytes {start} to {end}, stage " in epoch.error
