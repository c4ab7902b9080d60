"""Decoding one region of a JPEG gives the very pixels of the whole, and leaves to others what it cannot do."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.decode import Box, decode, stored_box, upright
from data_pipeline.region_decoder import RegionDecoder, region_decoder_version

SAMPLES = Path(__file__).parents[4] / "shared/data/imagenet_samples/train.parquet"
DECODER = RegionDecoder()
needs_library = pytest.mark.skipif(region_decoder_version() is None, reason="nvidia-nvimgcodec is not installed")


def encode(width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    random = np.random.default_rng(width)
    blobs = Image.fromarray(random.integers(0, 256, (9, 11, 3), np.uint8))
    image = blobs.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88, **options)
    return buffer.getvalue()


def boxes(width: int, height: int, count: int, seed: int) -> list[Box]:
    """Random ones, and those at the corners."""
    random = np.random.default_rng(seed)
    found = [Box(0, 0, 17, 9), Box(width - 13, height - 21, 13, 21), Box(0, height - 1, width, 1)]
    for _ in range(count):
        wide, high = int(random.integers(1, width)), int(random.integers(1, height))
        left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
        found.append(Box(left, top, wide, high))
    return [box for box in found if width * height - box.width * box.height >= 8192]


@needs_library
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}, {"restart_marker_blocks": 5}])
def test_a_region_is_what_the_whole_has_there(subsampling: int, options: dict[str, object]):
    data = encode(333, 250, **{"subsampling": subsampling, **options})  # type: ignore[arg-type]
    whole = decode(data)
    for box in boxes(333, 250, 60, seed=subsampling):
        found = DECODER.decode(memoryview(data), box, (333, 250))
        assert found is not None
        part = whole[box.top : box.top + box.height, box.left : box.left + box.width]
        np.testing.assert_array_equal(found, part, err_msg=str(box))


@needs_library
@pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
def test_regions_of_photographs_are_what_the_whole_has_there():
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(SAMPLES, columns=["image"])["image"]
    met = 0
    for number in range(0, 200, 4):
        data = column[number]["bytes"].as_py()
        whole = decode(data)
        height, width, _ = whole.shape
        for box in boxes(width, height, 3, seed=number):
            found = DECODER.decode(data, box, (width, height))
            part = whole[box.top : box.top + box.height, box.left : box.left + box.width]
            np.testing.assert_array_equal(found, part, err_msg=f"{number} {box}")
            met += 1
    assert met > 150


def test_what_is_better_decoded_whole_is_left_to_others():
    data = encode(200, 150)
    for damaged, box, full in (
        (data, Box(0, 0, 200, 140), (200, 150)),  # little is spared
        (data, Box(0, 0, 20, 20), (201, 150)),  # another size
        (encode(200, 150, "CMYK"), Box(0, 0, 20, 20), (200, 150)),
        (data[: len(data) // 3], Box(0, 140, 20, 10), (200, 150)),
        (b"\xff\xd8\xff" + bytes(100), Box(0, 0, 20, 20), (200, 150)),
        (b"", Box(0, 0, 20, 20), (200, 150)),
    ):
        assert DECODER.decode(damaged, box, full) is None


def test_without_the_library_everything_is_decoded_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data_pipeline.region_decoder._load", lambda: None)
    assert RegionDecoder().decode(encode(200, 150), Box(0, 0, 20, 20), (200, 150)) is None


@needs_library
def test_the_library_loads_without_a_word():
    program = "from data_pipeline.region_decoder import RegionDecoder; RegionDecoder(); raise SystemExit('x')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("", "x\n")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_of_the_upright_image_is_found_in_the_stored_one(orientation: int):
    stored = np.arange(7 * 5).reshape(7, 5, 1)
    shown = upright(stored, orientation)
    height, width, _ = shown.shape
    box = Box(1, 2, 3, 2)
    inner = stored_box(box, orientation, (width, height))
    part = stored[inner.top : inner.top + inner.height, inner.left : inner.left + inner.width]
    np.testing.assert_array_equal(upright(part, orientation), shown[2:4, 1:4])
