"""Facts about images: the same sizes as a strict reading finds, whole files only, and no image that stops a task."""

import io
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import ExifTags, Image

from data_pipeline.decode import read_strictly
from data_pipeline.examine import FACTS, FORMATS, Depth, ExamineTask
from data_pipeline.listing import write_listing
from data_pipeline.sources import Entry, Found, MissingImageError, Outline


@dataclass(frozen=True)
class Images:
    """A source of the bytes given, None for one that is only named."""

    content: tuple[bytes | None, ...]

    def outline(self) -> Outline:
        return Outline(None, "images of a test")

    def images(self) -> Iterator[Found]:
        for number, data in enumerate(self.content):
            yield Found("train", f"{number}.jpg", None, len(data or b""), number)

    def read(self, split: str, entry: Entry, limit: int | None = None) -> bytes:
        data = self.content[entry.place]
        if data is None:
            raise MissingImageError(f"{entry.name}: a dead link")
        return data[:limit]

    def annotations(self, split: str, entry: Entry) -> dict[str, Any]:
        return {}


Examine = Callable[..., np.ndarray]


@pytest.fixture
def make_task(tmp_path: Path) -> Callable[..., ExamineTask]:
    def make(*content: bytes | None, depth: Depth = "bytes") -> ExamineTask:
        source = Images(content)
        listing = write_listing(tmp_path / "listing", source, source.outline(), None, True, lambda _: None)
        target = tmp_path / f"{depth}.npy"
        return ExamineTask(source, listing.splits["train"], 0, len(content), target, depth)

    return make


@pytest.fixture
def examine(make_task: Callable[..., ExamineTask]) -> Examine:
    def run(*content: bytes | None, depth: Depth = "bytes") -> np.ndarray:
        return np.load(make_task(*content, depth=depth).run(lambda _: None), allow_pickle=False)

    return run


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    blobs = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (7, 8, 3), np.uint8))
    return blobs.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} | options if kind == "JPEG" else options))
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encode(picture(48, 32), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_sizes_are_those_of_upright_images(kind: str, examine: Examine) -> None:
    images = [turned(orientation, kind) for orientation in (1, 3, 6, 8)]
    facts = examine(*images)
    strict = [read_strictly(data)[0] for data in images]
    assert [(int(row["width"]), int(row["height"])) for row in facts] == [(f.width, f.height) for f in strict]
    assert {f.width for f in strict} == {48, 32}
    assert [FORMATS[number] for number in facts["format"]] == [f.extension for f in strict]
    assert facts["readable"].all()


def test_hashes_are_of_all_bytes(examine: Examine) -> None:
    images = [encode(picture(30, 20)), encode(picture(30, 20), quality=50), encode(picture(30, 20))]
    facts = examine(*images)
    hashes = [int(row["hash_high"]) << 64 | int(row["hash_low"]) for row in facts]
    assert hashes == [xxhash.xxh3_128_intdigest(data) for data in images]
    assert hashes[0] == hashes[2] != hashes[1]
    assert facts.dtype == FACTS
    assert facts["number"].tolist() == [0, 1, 2]
    assert not facts["perceptual"].any()


def test_formats_are_told_from_the_first_bytes_and_nothing_else_is_read(examine: Examine) -> None:
    content = [encode(picture(9, 9)), encode(picture(9, 9), "PNG"), encode(picture(9, 9), "WEBP"), npy(np.ones((2, 2)))]
    facts = examine(*(data[:16] for data in content), b"", depth="format")
    assert [FORMATS[number] for number in facts["format"]] == ["jpg", "png", "other", "npy", "other"]
    assert facts["readable"].tolist() == [1, 1, 1, 1, 0]
    assert not any(facts[name].any() for name in ("hash_high", "hash_low", "width", "height", "perceptual"))


@pytest.mark.parametrize("depth", ["format", "bytes", "pixels"])
def test_no_image_stops_a_task(depth: Depth, examine: Examine) -> None:
    whole = encode(picture(200, 150))
    broken = [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x93NUMPY\x01\0\xff\xff{", whole[:100], None]
    broken.append(npy(np.array([{"a": 1}], object)))
    facts = examine(*broken, whole, depth=depth)
    if depth != "format":
        assert facts["readable"].tolist() == [0] * len(broken) + [1]
        assert not facts["width"][:-1].any()
    assert facts["number"].tolist() == list(range(len(broken) + 1))


def test_a_cut_image_has_a_size_but_no_look(examine: Examine) -> None:
    whole = encode(picture(200, 150))
    cut = whole[: len(whole) // 2]
    by_bytes, by_pixels = examine(cut, depth="bytes")[0], examine(cut, depth="pixels")[0]
    assert by_bytes["readable"] == 1
    assert by_pixels["readable"] == 0
    assert (by_pixels["width"], by_pixels["height"]) == (200, 150)


@pytest.mark.parametrize(
    ("array", "size"),
    [
        (np.zeros((20, 30), np.uint8), (30, 20)),
        (np.zeros((20, 30, 5), np.float32), (30, 20)),
        (np.asfortranarray(np.zeros((20, 30, 5), np.uint16)), (30, 20)),
        (np.zeros((4, 20, 30, 5), np.uint8), None),
        (np.zeros((20, 30), np.complex64), None),
    ],
)
def test_arrays_have_a_width_and_a_height(array: np.ndarray, size: tuple[int, int] | None, examine: Examine) -> None:
    row = examine(npy(array))[0]
    assert (int(row["width"]), int(row["height"])) == (size or (0, 0))
    assert row["readable"] == (size is not None)
    assert FORMATS[row["format"]] == "npy"


def differing_bits(facts: np.ndarray) -> list[int]:
    return [(int(facts["perceptual"][0]) ^ int(value)).bit_count() for value in facts["perceptual"][1:]]


def test_what_looks_the_same_hashes_alike(examine: Examine) -> None:
    image = picture(640, 480)
    alike = [encode(image, quality=60), encode(image, "PNG"), encode(image.resize((300, 225))), turned_back(image)]
    other = encode(picture(640, 480, seed=1))
    *near, far = differing_bits(examine(encode(image), *alike, other, depth="pixels"))
    assert max(near) <= 3
    assert far > 16


def turned_back(image: Image.Image) -> bytes:
    """Stored lying on its side, with the orientation that turns it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encode(image.transpose(Image.Transpose.ROTATE_90), exif=exif)


def test_the_hash_of_a_small_image_is_that_of_imagehash(examine: Examine) -> None:
    imagehash = pytest.importorskip("imagehash")
    image = picture(100, 90)
    facts = examine(encode(image, "PNG"), depth="pixels")
    assert f"{int(facts['perceptual'][0]):016x}" == str(imagehash.phash(image))


def test_arrays_look_the_same_whatever_their_values_mean(examine: Examine) -> None:
    grey = np.asarray(picture(80, 60).convert("L"))
    arrays = [grey, grey.astype(np.uint16) * 256, np.repeat(grey[..., None] / np.float32(10), 4, -1).astype(np.float32)]
    assert max(differing_bits(examine(*map(npy, arrays), depth="pixels"))) <= 3
    flat = examine(npy(np.full((8, 8), 7, np.uint8)), npy(np.full((8, 8), np.nan, np.float32)), depth="pixels")
    assert flat["readable"].tolist() == [1, 0]


def test_what_is_whole_is_not_done_again(make_task: Callable[..., ExamineTask]) -> None:
    task = make_task(*(encode(picture(9 + number, 9)) for number in range(5)))
    reports: list[int] = []
    before = task.run(reports.append).read_bytes()
    assert reports == [1] * 5
    blind = replace(task, source=Images(()))  # would fail at the first read
    assert blind.run(reports.append) == task.target
    assert reports[5:] == [5]
    assert [path.name for path in task.target.parent.glob("*.npy")] == ["bytes.npy"]
    for damaged in (before[:-1], before[:40], b"", before.replace(b"hash_low", b"hash_law"), b"PK\x03\x04 a zip"):
        task.target.write_bytes(damaged)
        assert task.run(reports.append).read_bytes() == before
    part = replace(task, start=1)
    assert np.load(part.run(reports.append))["number"].tolist() == [1, 2, 3, 4]


def test_tasks_travel_and_say_what_they_do(make_task: Callable[..., ExamineTask]) -> None:
    task = pickle.loads(pickle.dumps(make_task(b"", b"")))  # noqa: S301 - our own bytes
    assert str(task) == "examining images 0 to 1 of split train"
    assert np.load(task.run(lambda _: None))["readable"].tolist() == [0, 0]


def test_without_imagehash_it_says_what_to_install(
    make_task: Callable[..., ExamineTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    task = make_task(encode(picture(9, 9)), depth="pixels")
    with pytest.raises(ValueError, match=r"--near-duplicates needs .*: pip install imagehash, or leave the option out"):
        task.run(lambda _: None)
    assert not task.target.exists()
