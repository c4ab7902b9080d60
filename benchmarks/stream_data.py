"""Datasets to measure the stream with, written once and kept: many copies of a few photographs, and one of a billion
samples, of which only the manifest and the shards that are looked at exist.
"""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import xxhash

from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics, read_manifest, write_manifest
from data_pipeline.shard_plan import INDEX_FOLDER
from data_pipeline.shard_writer import npy
from data_pipeline.tar_writer import TarWriter
from launch.atomic import atomic_folder, write_atomically

SPLIT = "train"
IMAGE_BYTES = 110_000
"""Of an image of the billion: about what one of ImageNet has."""
_SIZE = (500, 375)  # and its width and height
_MEMBER = 512 + -(-IMAGE_BYTES // 512) * 512


def copies(work: Path, source: Path, shards: int, each: int) -> Manifest:
    """A dataset of so many shards of `each` images, those of a parquet file again and again, without labels.

    Raises:
        ValueError: there is no such file.
    """
    if not source.is_file():
        raise ValueError(f"{source}: no such file; expected a parquet file with a column `image`, as `datasets` writes")
    folder = work / f"{source.parent.name}-{shards}x{each}"
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as out:
            _write_copies(out, source, shards, each)
    return read_manifest(folder)


def _write_copies(folder: Path, source: Path, shards: int, each: int) -> None:
    from pyarrow import parquet

    from data_pipeline.decode import read_strictly

    images = [row["bytes"] for row in parquet.read_table(source, columns=["image"])["image"].to_pylist()]
    facts = [read_strictly(image)[0] for image in images]
    hashes = [xxhash.xxh3_64_intdigest(image) for image in images]
    (folder / INDEX_FOLDER).mkdir()
    written = []
    for shard in range(shards):
        stem = f"{SPLIT}-{shard:06d}"
        index = np.zeros(each, INDEX_DTYPE)
        with (folder / f"{stem}.tar").open("wb") as file:
            tar = TarWriter(file)
            for row in range(each):
                place = shard * each + row
                number = place % len(images)
                start, image, known = tar.position, images[number], facts[number]
                at = tar.add(f"{SPLIT}-{place:09d}.jpg", image)
                spans = start, tar.position - start, at, len(image)
                sizes = known.width, known.height, known.orientation
                index[row] = (*spans, hashes[number], xxhash.xxh3_64_intdigest(b""), -1, *sizes, place)
            tar.finish()
        digest = write_index(folder / INDEX_FOLDER / f"{stem}.npy", index)
        name = f"{INDEX_FOLDER}/{stem}.npy"
        written.append(Shard(f"{stem}.tar", each, tar.position, tar.sha256.hexdigest(), name, digest, shard * each))
    sizes = [(known.width, known.height) for known in facts]
    write_manifest(_manifest(folder, written, sizes, f"--source {source}"))


def billion(work: Path, samples: int, shards: int) -> Path:
    """The folder of a dataset that has a whole manifest, with made-up hashes of tars, and nothing else."""
    folder = work / f"billion-{samples}-{shards}"
    if not folder.exists():
        work.mkdir(parents=True, exist_ok=True)
        each = samples // shards
        digest = hashlib.sha256(npy(_index(each))).hexdigest()
        size = each * _MEMBER + 1024
        described = [
            Shard(
                f"{SPLIT}-{number:06d}.tar",
                each,
                size,
                hashlib.sha256(f"{number}".encode()).hexdigest(),
                f"{INDEX_FOLDER}/{SPLIT}-{number:06d}.npy",
                digest,
            )
            for number in range(shards)
        ]
        with atomic_folder(folder) as out:
            write_manifest(_manifest(out, described, [_SIZE], "--source MADE-UP"))
    return folder


def write_shard(manifest: Manifest, number: int, row: int) -> str:
    """Write a shard of the billion, empty but for the header of the sample in `row`; returns that sample's key."""
    shard, key = manifest.split(SPLIT).shards[number], f"{SPLIT}-{number:06d}-{row:06d}"
    folder = manifest.folder
    assert isinstance(folder, Path)
    (folder / INDEX_FOLDER).mkdir(exist_ok=True)
    write_index(folder / shard.index, _index(shard.samples))
    header = tarfile.TarInfo(f"{key}.jpg")
    header.size = IMAGE_BYTES
    with (folder / shard.file).open("wb") as file:
        file.seek(row * _MEMBER)
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(shard.bytes)
    return key


def write_index(path: Path, index: np.ndarray) -> str:
    """Write an index (dtype `INDEX_DTYPE`); returns the SHA-256 of its file."""
    data = npy(index)
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _index(samples: int) -> np.ndarray:
    """That of every shard of the billion: images of the same size, without labels, one after another."""
    index = np.zeros(samples, INDEX_DTYPE)
    index["place"] = np.arange(samples)
    index["offset"] = index["place"].astype(np.uint64) * np.uint64(_MEMBER)
    index["length"], index["image_offset"], index["image_length"] = _MEMBER, index["offset"] + 512, IMAGE_BYTES
    index["label"], index["orientation"] = -1, 1
    index["width"], index["height"] = _SIZE
    return index


def _manifest(folder: Path, shards: list[Shard], sizes: list[tuple[int, int]], command: str) -> Manifest:
    widths, heights = zip(*sizes, strict=True)
    extremes = (min(widths), min(heights)), (max(widths), max(heights))
    statistics = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), *extremes)
    return Manifest(folder, None, statistics, {"command": command}, {SPLIT: Split("jpg", tuple(shards))})
