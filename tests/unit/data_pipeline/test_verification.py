"""Every kind of damage is found in the first bytes that it touches, and no whole shard is called bad."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xxhash

from data_pipeline import tape
from data_pipeline.location import RemotePath, StoreError, locate
from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from data_pipeline.shard_check import CheckShard
from data_pipeline.verification import summary, verify_dataset
from launch.console import Console

BLOCK = 512
IMAGE = 700  # bytes of each image, so that all samples are laid out alike
SAMPLE = BLOCK + 1024 + 2 * (BLOCK + BLOCK)
"""Bytes of a sample of ours: image, .cls and .json, each with its header and padding."""


def image_of(number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, IMAGE, np.uint8).tobytes()


def members_of(key: str, number: int) -> list[tuple[str, bytes]]:
    caption = b'{"caption": "number %d"}' % number
    return [(f"{key}.png", image_of(number)), (f"{key}.cls", b"%d" % (number % 3)), (f"{key}.json", caption)]


def write_shard(folder: Path, stem: str, places: list[int], kind: int = tarfile.USTAR_FORMAT, long: str = "") -> Shard:
    """`kind` and `long`, which goes into the keys, are those of tars of others; keys number `places`."""
    is_ours = kind == tarfile.USTAR_FORMAT and not long
    index, keys = np.zeros(len(places), INDEX_DTYPE), []
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for row, place in enumerate(places):
            key = f"{long}train-{place:09d}"
            keys.append(key)
            start, annotations, image_at = tar.offset, xxhash.xxh3_64(), 0
            for name, data in members_of(key, place):
                header = tarfile.TarInfo(name if is_ours else f"./{name}")
                header.size, header.mode = len(data), 0o444
                if not is_ours:
                    header.mtime, header.uname = 1_700_000_000 + place, "someone"
                tar.addfile(header, io.BytesIO(data))
                if name.endswith(".png"):
                    image_at = tar.offset - 1024
                else:
                    annotations.update(data)
            hashes = xxhash.xxh3_64_intdigest(image_of(place)), annotations.intdigest()
            index[row] = start, tar.offset - start, image_at, IMAGE, *hashes, place % 3, 20, 10, 1, place
    data = buffer.getvalue()[: tar.offset] if is_ours else buffer.getvalue()
    (folder / f"{stem}.tar").write_bytes(data)
    np.save(folder / f"{stem}.npy", index)
    (folder / f"{stem}.txt").write_text("".join(f"{key if not is_ours else f'{key}.png'}\n" for key in keys))
    hashes = (hashlib.sha256((folder / f"{stem}.{kind}").read_bytes()).hexdigest() for kind in ("tar", "npy"))
    first = places[0] if is_ours else -1
    return Shard(f"{stem}.tar", len(places), len(data), next(hashes), f"{stem}.npy", next(hashes), first)


def manifest_of(folder: Path, shards: list[Shard]) -> Manifest:
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, (20, 10), (20, 10))
    split = Split("png", tuple(shards), class_counts=(1, 1, 1))
    return Manifest(folder, ("a", "b", "c"), statistics, {"command": "--source X"}, {"train": split})


@pytest.fixture
def dataset(tmp_path: Path) -> Manifest:
    places = [[0, 1, 2, 3], [4, 6, 7], [8, 9]]  # number 5 did not decode
    return manifest_of(tmp_path, [write_shard(tmp_path, f"train-{n:06d}", some) for n, some in enumerate(places)])


def faults(manifest: Manifest, number: int = 1) -> tuple[str, ...]:
    split = manifest.split("train")
    check = CheckShard(manifest.folder, manifest.tars, "train", split.extension, number, split.shards[number])
    done: list[int] = []
    verdict = check.run(done.append)
    assert sum(done) == split.shards[number].samples
    return verdict.faults


def alter(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(at: int) -> Callable[[bytearray], object]:
    def change(data: bytearray) -> None:
        data[at] ^= 0x10

    return change


def tar_of(manifest: Manifest, number: int = 1) -> Path:
    assert isinstance(manifest.folder, Path)
    return manifest.folder / manifest.split("train").shards[number].file


def test_whole_shards_have_no_fault(dataset: Manifest) -> None:
    assert [faults(dataset, number) for number in range(3)] == [(), (), ()]


SECOND = "sample 1, train-000000006"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (SAMPLE + BLOCK + 5, f"bytes 4,096 to 4,796 (image of {SECOND}): checksum"),
        (
            SAMPLE + BLOCK + IMAGE + 3,
            f"bytes 4,796 to 5,120 (padding after train-000000006.png, {SECOND[:8]}): expected",
        ),
        (SAMPLE + 20, f"bytes 3,584 to 4,096 (header in {SECOND}): bad checksum, expected a tar header"),
        (SAMPLE + 1536 + 30, f"bytes 5,120 to 5,632 (header in {SECOND}): bad checksum"),
        (SAMPLE + 1536 + BLOCK, f"bytes 5,632 to 6,679 (annotations of {SECOND}): checksum"),
        (SAMPLE + 1536 + 1024 + BLOCK, f"bytes 5,632 to 6,679 (annotations of {SECOND}): checksum"),
        (3 * SAMPLE + 100, "bytes 10,852 to 10,853 (the end of the archive): expected zeros"),
    ],
)
def test_an_altered_byte_is_named_by_where_it_lies(dataset: Manifest, at: int, expected: str) -> None:
    alter(tar_of(dataset), flip(at))
    (fault,) = faults(dataset)
    assert fault.startswith(f"shard train-000001.tar: {expected}")
    assert "more after it" not in fault
    assert faults(dataset, 0) == faults(dataset, 2) == ()


@pytest.mark.parametrize("step", [97])
def test_no_byte_can_change_unnoticed(dataset: Manifest, step: int) -> None:
    path = tar_of(dataset)
    whole = path.read_bytes()
    for at in range(0, len(whole), step):
        alter(path, flip(at))
        (fault,) = faults(dataset)
        start, stop = (int(word.replace(",", "")) for word in fault.split("bytes ")[1].split(" (")[0].split(" to "))
        assert start <= at < stop, fault
        path.write_bytes(whole)


def test_the_first_of_several_is_named(dataset: Manifest) -> None:
    alter(tar_of(dataset), flip(2 * SAMPLE + BLOCK))
    alter(tar_of(dataset), flip(BLOCK))
    (fault,) = faults(dataset)
    assert "bytes 512 to 1,212 (image of sample 0, train-000000004): checksum" in fault
    assert fault.endswith("(and 1 more after it)")


def restated(data: bytearray, start: int, change: Callable[[tarfile.TarInfo], object]) -> None:
    """A header changed by someone who also corrects its checksum."""
    header = tarfile.TarInfo.frombuf(bytes(data[start : start + BLOCK]), "utf-8", "strict")
    change(header)
    data[start : start + BLOCK] = header.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        (
            "name",
            "train-000000066.png",
            f"(header in {SECOND}): names 'train-000000066.png', expected train-000000006.png",
        ),
        (
            "name",
            "train-000000006.jpg",
            f"(header in {SECOND}): names 'train-000000006.jpg', expected train-000000006.png",
        ),
        ("size", IMAGE - 1, f"(header in {SECOND}): gives its image 699 bytes, index lists 700"),
        ("mode", 0o777, "(a header unlike all others): sha256"),
        ("mtime", 12, "(a header unlike all others): sha256"),
    ],
)
def test_a_header_with_a_right_checksum_is_compared_too(
    dataset: Manifest, attribute: str, value: object, expected: str
) -> None:
    alter(tar_of(dataset), lambda data: restated(data, SAMPLE, lambda header: setattr(header, attribute, value)))
    (fault,) = faults(dataset)
    assert f"bytes 3,584 to 4,096 {expected}" in fault


def test_the_first_header_may_be_the_odd_one(dataset: Manifest) -> None:
    alter(tar_of(dataset), lambda data: restated(data, 0, lambda header: setattr(header, "mode", 0o777)))
    assert "bytes 0 to 512 (a header unlike all others): sha256" in faults(dataset)[0]


def test_a_cut_tar_says_from_where_on(dataset: Manifest) -> None:
    listed = dataset.split("train").shards[1].bytes
    for size, expected in (
        (SAMPLE + 700, f"bytes 4,284 to {listed:,} (from {SECOND}, on): missing, the tar ends there"),
        (listed - 600, f"bytes {listed - 600:,} to {listed:,} (the end): missing; manifest lists {listed:,} bytes"),
    ):
        path = tar_of(dataset)
        path.write_bytes(path.read_bytes()[:size])
        assert faults(dataset) == (f"shard train-000001.tar: {expected}",)
        write_shard(path.parent, "train-000001", [4, 6, 7])


def test_bytes_behind_the_end_are_named(dataset: Manifest) -> None:
    listed = dataset.split("train").shards[1].bytes
    path = tar_of(dataset)
    path.write_bytes(path.read_bytes() + b"more")
    expected = f"bytes {listed:,} to {listed + 4:,} (behind the end): manifest lists {listed:,} bytes"
    assert faults(dataset) == (f"shard train-000001.tar: {expected}",)


def test_an_altered_index_is_named_and_the_tar_still_read(dataset: Manifest) -> None:
    path = tar_of(dataset).with_suffix(".npy")
    alter(path, flip(-80))
    (fault,) = faults(dataset)
    assert fault.startswith(f"index train-000001.npy: bytes 0 to {path.stat().st_size:,}: sha256 ")
    alter(tar_of(dataset), flip(BLOCK))
    size = tar_of(dataset).stat().st_size
    first, second = faults(dataset)
    assert first == fault
    assert (
        f"shard train-000001.tar: bytes 0 to {size:,} (where in them only a whole index would tell): sha256" in second
    )


def with_index(manifest: Manifest, change: Callable[[np.ndarray], object]) -> Manifest:
    """An index that its manifest vouches for, and that is wrong all the same."""
    path = tar_of(manifest).with_suffix(".npy")
    index = np.load(path)
    change(index)
    np.save(path, index)
    split = manifest.split("train")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    shards = (split.shards[0], replace(split.shards[1], index_sha256=sha256), split.shards[2])
    return replace(manifest, splits={"train": replace(split, shards=shards)})


def test_an_index_that_does_not_fit_its_tar_is_noticed(dataset: Manifest) -> None:
    def relabel(index: np.ndarray) -> None:
        index["label"][1] = 2

    def shift(index: np.ndarray) -> None:
        index["image_offset"][1] += BLOCK

    def reorder(index: np.ndarray) -> None:
        index["place"][1:] = 7, 6

    def early(index: np.ndarray) -> None:
        index["place"][0] = 3

    def overlap(index: np.ndarray) -> None:
        index["offset"][1] -= BLOCK

    for change, expected in (
        (relabel, f"bytes 5,632 to 5,633 (label of {SECOND}): b'0', index lists 2"),
        (shift, f"bytes 3,584 to 5,308 ({SECOND}): no file begins at byte 4,608, where the index has its image"),
        (reorder, "index train-000001.npy: the key of sample 2 has the number 6, expected at least 8: keys increase"),
        (early, "index train-000001.npy: the key of sample 0 has the number 3, expected at least 4: keys increase"),
        (overlap, f"bytes 3,072 to 6,656 ({SECOND}): in the index it begins inside the one before it"),
    ):
        found = faults(with_index(dataset, change))
        assert any(expected in fault for fault in found), found
        write_shard(tar_of(dataset).parent, "train-000001", [4, 6, 7])


def test_what_is_missing_is_named(dataset: Manifest) -> None:
    for suffix, expected in ((".tar", "shard train-000001.tar: missing"), (".npy", "index train-000001.npy: missing")):
        path = tar_of(dataset).with_suffix(suffix)
        path.unlink()
        assert faults(dataset)[0].startswith(expected)
        write_shard(path.parent, "train-000001", [4, 6, 7])
    tar_of(dataset).with_suffix(".txt").write_text("one\n")
    assert faults(dataset) == ("names train-000001.txt: 1 lines, expected 3, one a sample",)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("long", ["", "a folder with a name/" * 8])
def test_tars_of_others_are_read_by_their_own_rules(tmp_path: Path, kind: int, long: str) -> None:
    shard = write_shard(tmp_path, "part", [3, 1, 2], kind, long)
    dataset = manifest_of(tmp_path, [shard])
    assert faults(dataset, 0) == ()
    index = np.load(tmp_path / "part.npy")
    start = int(index["image_offset"][1])
    whole = tar_of(dataset, 0).read_bytes()
    alter(tar_of(dataset, 0), flip(start + 9))
    assert (
        f"bytes {start:,} to {start + IMAGE:,} (image of sample 1, {long}train-000000001): checksum"
        in (faults(dataset, 0)[0])
    )
    tar_of(dataset, 0).write_bytes(whole[:-1] + b"!")
    assert (
        f"bytes 0 to {len(whole):,} (between samples or their files, where no other checksum reaches): sha256"
        in (faults(dataset, 0)[0])
    )


def test_all_shards_are_looked_at_and_each_bad_one_has_its_repair(dataset: Manifest) -> None:
    alter(tar_of(dataset, 0), flip(BLOCK))
    alter(tar_of(dataset, 2), flip(BLOCK))
    said = io.StringIO()
    verified = verify_dataset(dataset, None, 1, Console(stream=said))
    assert verified.bad == (("train", 0), ("train", 2))
    assert (verified.shards, verified.samples, verified.bytes) == (3, 9, dataset.split("train").bytes)
    for number in (0, 2):
        lines = [line for line in said.getvalue().splitlines() if f"shard train-00000{number}.tar: bytes 512" in line]
        repair = f"--source X --out {dataset.folder} --only train-00000{number}.tar"
        assert lines[0].endswith(f"; rewrite it with: python data_pipeline/shard.py {repair}")
    assert summary(verified).endswith(": 2 of the shards are bad")
    assert summary(verified._replace(bad=())).endswith(": all whole")


def test_shards_whose_keys_are_out_of_order_are_named(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path, f"train-{n:06d}", places) for n, places in enumerate([[4, 5], [0, 1]])]
    said = io.StringIO()
    verified = verify_dataset(manifest_of(tmp_path, shards), "train", 1, Console(stream=said))
    assert verified.bad == (("train", 1),)
    assert "index train-000001.npy: keys begin at 0, expected above 5, where those before end" in said.getvalue()


def test_an_unknown_split_is_refused(dataset: Manifest) -> None:
    with pytest.raises(ValueError, match="no split 'tset'; it has: train"):
        verify_dataset(dataset, "tset", 1, Console(stream=io.StringIO()))


def test_shards_of_a_store_are_read_in_windows(dataset: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    assert isinstance(dataset.folder, Path)
    for path in dataset.folder.iterdir():
        memory.pipe(f"/verified/{path.name}", path.read_bytes())
    monkeypatch.setattr(tape, "_WINDOW", 1000)
    ranges: list[tuple[int, int]] = []
    read_range = RemotePath.read_range
    monkeypatch.setattr(RemotePath, "read_range", lambda self, *span: ranges.append(span) or read_range(self, *span))
    remote = replace(dataset, folder=locate("memory://verified"))
    assert faults(remote) == ()
    assert sum(stop - start for start, stop in ranges) == dataset.split("train").shards[1].bytes
    assert max(stop - start for start, stop in ranges) == 1000
    data = bytearray(tar_of(dataset).read_bytes())
    data[SAMPLE + BLOCK + 5] ^= 1
    memory.pipe("/verified/train-000001.tar", bytes(data))
    assert f"bytes 4,096 to 4,796 (image of {SECOND}): checksum" in faults(remote)[0]
    memory.rm("/verified/train-000001.tar")
    assert faults(remote) == ("shard train-000001.tar: missing from memory://verified",)


def test_a_store_that_does_not_answer_is_told_of_its_shard(dataset: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise StoreError("memory://verified/train-000001.npy, stage read, bytes 0 to 9: no route to host")

    monkeypatch.setattr(RemotePath, "is_file", lambda _: True)
    monkeypatch.setattr(RemotePath, "read_bytes", fail)
    monkeypatch.setattr(RemotePath, "size", fail)
    found = faults(replace(dataset, folder=locate("memory://verified")))
    assert len(found) == 2
    assert all("no route to host" in fault for fault in found)
