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


def npy(number: int, size: int, channels: int, dtype: str) -> bytes:
    """An array of noise of the number's own, over the type's range; floats from 0 to 1."""
    values = np.random.default_rng(number).random((size, size, channels))
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    buffer = io.BytesIO()
    np.save(buffer, (values * most).astype(dtype))
    return buffer.getvalue()


def write_dataset(
    folder: Path,
    shard_samples: Sequence[int],
    *,
    broken: Sequence[int] = (),
    size: int = 8,
    split: str = "train",
    array: tuple[int, str] | None = None,
    withdrawn: Sequence[int] = (),
    unlabelled: Sequence[int] = (),
    annotations: Sequence[bytes | None] = (),
    is_image_last: bool = False,
    folder_in_tar: str = "",
) -> Manifest:
    """A dataset of PNGs; sample i shows i and has label i mod 10; `broken` ones hold bytes that are no image.

    With `array`, which is channels and type, samples are .npy files of noise. `withdrawn` ones are marked as such, and
    `unlabelled` ones have no label.
    `annotations` are what the .json of each sample holds, None for no such file. As in tars of others, the image may
    stand behind its sample's other files, and all of them in a folder, whose name may be too long for a plain header.
    """
    folder.mkdir(parents=True, exist_ok=True)
    extension = "png" if array is None else "npy"
    channels, dtype = array or (3, "uint8")
    shards, sample = [], 0
    for number, count in enumerate(shard_samples):
        name = f"{split}-{number:06d}"
        index = np.zeros(count, INDEX_DTYPE)
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            for row in range(count):
                image = png(sample, size) if array is None else npy(sample, size, *array)
                image = b"no image at all" if sample in broken else image
                files = {} if sample in unlabelled else {"cls": str(sample % 10).encode()}
                if annotations and (text := annotations[sample]) is not None:
                    files["json"] = text
                annotation_hash = xxhash.xxh3_64_intdigest(b"".join(files.values()))
                files = {**files, extension: image} if is_image_last else {extension: image, **files}
                start, image_start = tar.offset, 0
                for ending, data in files.items():
                    member = tarfile.TarInfo(f"{folder_in_tar}{split}-{sample:09d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    if ending == extension:
                        image_start = tar.offset - -(-len(data) // 512) * 512
                index[row] = (
                    start,
                    tar.offset - start,
                    image_start,
                    len(image),
                    xxhash.xxh3_64_intdigest(image),
                    annotation_hash,
                    -1 if sample in unlabelled else sample % 10,
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
    statistics = Statistics((0.5,) * channels, (0.25,) * channels, (size, size), (size, size))
    classes = tuple(str(digit) for digit in range(10))
    described = Split(extension, tuple(shards), channels, dtype, withdrawn=tuple(withdrawn))
    return Manifest(folder, classes, statistics, {"command": "--source X"}, {split: described})


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Writes a dataset into a fresh folder: `make_dataset([5, 3], broken=[2])`."""
    made = 0

    def make(shard_samples: Sequence[int], **options: object) -> Manifest:
        nonlocal made
        made += 1
        return write_dataset(tmp_path / f"dataset-{made}", shard_samples, **options)  # type: ignore[arg-type]

    return make
