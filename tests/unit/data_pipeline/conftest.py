"""Datasets small enough to build by the hundred, written from the contract and not by the code under test."""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics

MakeDataset = Callable[..., Manifest]


def png(number: int, size: int = 8) -> bytes:
    """An image that tells its number in its first three pixels' values."""
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, :] = (number % 256, number // 256 % 256, number // 65536)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_dataset(
    folder: Path, shard_samples: Sequence[int], broken: Sequence[int] = (), size: int = 8, split: str = "train"
) -> Manifest:
    """A dataset of PNGs; sample i shows i and has label i mod 10; `broken` ones hold bytes that are no image."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, sample = [], 0
    for number, count in enumerate(shard_samples):
        name = f"{split}-{number:06d}"
        index = np.zeros(count, INDEX_DTYPE)
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(count):
                image = b"no image at all" if sample in broken else png(sample, size)
                label = str(sample % 10).encode()
                start = tar.offset
                for extension, data in (("png", image), ("cls", label)):
                    member = tarfile.TarInfo(f"{split}-{sample:09d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                index[row] = (
                    start,
                    tar.offset - start,
                    start + 512,
                    len(image),
                    xxhash.xxh3_64_intdigest(image),
                    xxhash.xxh3_64_intdigest(label),
                    sample % 10,
                    size,
                    size,
                    1,
                    0,
                )
                sample += 1
        np.save(folder / f"{name}.npy", index)
        tar_bytes, index_bytes = (folder / f"{name}.tar").read_bytes(), (folder / f"{name}.npy").read_bytes()
        hashes = hashlib.sha256(tar_bytes).hexdigest(), hashlib.sha256(index_bytes).hexdigest()
        shards.append(Shard(f"{name}.tar", count, len(tar_bytes), hashes[0], f"{name}.npy", hashes[1]))
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, (size, size), (size, size))
    classes = tuple(str(digit) for digit in range(10))
    return Manifest(folder, classes, statistics, {"command": "--source X"}, {split: Split("png", tuple(shards))})


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a dataset into a fresh folder: `make_dataset([5, 3], broken=[2])`."""
    made = 0

    def make(shard_samples: Sequence[int], **options: object) -> Manifest:
        nonlocal made
        made += 1
        return write_dataset(tmp_path / f"dataset-{made}", shard_samples, **options)  # type: ignore[arg-type]

    return make
