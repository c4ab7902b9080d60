"""Bytes to pixels: orientation, strictness, odd formats, and the same views as Pillow's bicubic resize."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from data_pipeline.augment import Crop
from data_pipeline.decode import DecodeError, read_strictly, sniff, to_png
from data_pipeline.view_pixels import decode_view, jpeg_scale, snap

SAMPLES = Path(__file__).parents[4] / "shared/data/imagenet_samples/train.parquet"


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs and some texture: neither flat nor pure noise."""
    random = np.random.default_rng(seed)
    blobs = Image.fromarray(random.integers(0, 256, (6, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    texture = random.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(blobs) + texture, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 92} | options if kind == "JPEG" else options))
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_that_of_pillow(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(picture(48, 32), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    facts, pixels = read_strictly(data)
    assert facts == (kind.lower().replace("jpeg", "jpg"), expected.shape[1], expected.shape[0], orientation)
    np.testing.assert_array_equal(pixels, expected)
    size = (facts.height, facts.width)
    view = decode_view(data, (facts.width, facts.height), orientation, Crop(0, 0, *size[::-1], mirrored=False), size)
    np.testing.assert_array_equal(view, expected)


def test_broken_metadata_is_no_broken_image() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(picture(48, 32), exif=exif)
    at = data.index(b"Exif\0\0")
    facts, _ = read_strictly(data[: at + 6] + b"\xff" * 8 + data[at + 14 :])
    assert (facts.width, facts.height, facts.orientation) == (48, 32, 1)


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_truncated_images_are_refused(kind: str, kept: float) -> None:
    data = encode(picture(200, 150), kind)
    with pytest.raises(DecodeError, match=r"not an? (whole )?(image|JPEG)"):
        read_strictly(data[: int(len(data) * kept)])


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpegs_altered_in_mid_stream_are_refused(mode: str) -> None:
    data = encode(picture(200, 150).convert(mode))
    for share in (0.4, 0.6, 0.9):
        at = int(len(data) * share)
        with pytest.raises(DecodeError, match="not a whole JPEG"):
            read_strictly(data[:at] + bytes(range(192, 256)) + data[at + 64 :])


def test_pngs_altered_in_mid_stream_are_refused() -> None:
    data = encode(picture(200, 150), "PNG")
    for share in (0.4, 0.6, 0.9):
        at = int(len(data) * share)
        with pytest.raises(DecodeError, match=r"not an? (whole )?image"):
            read_strictly(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff and no more", b"\x89PNG\r\n\x1a\n"])
def test_reasons_are_the_same_in_every_process(data: bytes) -> None:
    with pytest.raises(DecodeError) as refusal:
        read_strictly(data)
    assert " at 0x" not in str(refusal.value)


def test_decompression_bombs_are_refused() -> None:
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DecodeError, match="decompression bomb"):
        read_strictly(bytes(data))


def test_cmyk_has_pillows_colours() -> None:
    image = picture(64, 48).convert("CMYK")
    data = encode(image)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(read_strictly(data)[1], expected)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    _, pixels = read_strictly(encode(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1))


def test_palettes_and_alpha_become_rgb() -> None:
    image = picture(40, 30)
    for variant in (image.quantize(16), image.convert("RGBA"), image.convert("L"), image.convert("1")):
        data = encode(variant, "PNG")
        np.testing.assert_array_equal(read_strictly(data)[1], np.asarray(variant.convert("RGB")))


def test_bytes_speak_for_themselves_whatever_the_file_is_called() -> None:
    png = encode(picture(40, 30), "PNG")
    assert [sniff(png), sniff(encode(picture(8, 8))), sniff(encode(picture(8, 8), "WEBP"))] == ["png", "jpg", "other"]
    view = decode_view(png, (40, 30), 1, Crop(4, 3, 20, 15, mirrored=False), (10, 12))
    assert view.shape == (10, 12, 3)


@pytest.mark.parametrize("grey", [False, True])
def test_to_png_is_lossless(grey: bool) -> None:
    image = picture(40, 30)
    pixels = np.asarray(image.convert("L").convert("RGB") if grey else image)
    with Image.open(io.BytesIO(to_png(pixels))) as stored:
        assert stored.mode == ("L" if grey else "RGB")
        np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), pixels)
    assert to_png(pixels) == to_png(pixels.copy())


def test_an_index_that_does_not_fit_is_noticed() -> None:
    with pytest.raises(DecodeError, match="decodes to 40 x 30 pixels at 1/1, the index says 41 x 30 in full"):
        decode_view(encode(picture(40, 30)), (41, 30), 1, Crop(0, 0, 8, 8, mirrored=False), (8, 8))


def test_the_scale_leaves_twice_the_size() -> None:
    scales = [jpeg_scale(Crop(0, 0, side, side, mirrored=False), (100, 100)) for side in (50, 399, 400, 799, 800, 1600)]
    assert scales == [1, 1, 2, 2, 4, 8]


def difference_to_pillow(data: bytes, crop: Crop, size: tuple[int, int]) -> float:
    """Mean difference in grey levels to Pillow's crop and resize of the full image, on the box that is really read."""
    facts, pixels = read_strictly(data)
    scale = jpeg_scale(crop, size)
    left, top, width, height = (value * scale for value in snap(crop, scale))
    right, bottom = min(left + width, facts.width), min(top + height, facts.height)
    box = Image.fromarray(np.ascontiguousarray(pixels)).crop((left, top, right, bottom))
    expected = np.asarray(box.resize(size[::-1], Image.Resampling.BICUBIC), np.int64)
    view = decode_view(data, (facts.width, facts.height), facts.orientation, crop, size)
    return float(np.abs(view - expected).mean())


@pytest.mark.parametrize(("scale", "limit"), [(1, 0.1), (2, 1.0), (4, 1.0), (8, 1.0)])
def test_views_are_those_of_pillow(scale: int, limit: float) -> None:
    for number in range(3):
        data = encode(picture(1000, 900, seed=number))
        crop = Crop(17, 23 + number, 832, 801, mirrored=False)
        side = 400 // scale
        assert jpeg_scale(crop, (side, side)) == scale
        assert difference_to_pillow(data, crop, (side, side)) < limit


def test_mirrored_views_are_mirrored() -> None:
    data = encode(picture(60, 50))
    straight, mirrored = (decode_view(data, (60, 50), 1, Crop(3, 5, 40, 30, turn), (16, 16)) for turn in (False, True))
    np.testing.assert_array_equal(straight[:, ::-1], mirrored)


@pytest.mark.skipif(not SAMPLES.exists(), reason=f"{SAMPLES} is absent")
def test_views_of_photographs_are_those_of_pillow() -> None:
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(SAMPLES, columns=["image"])["image"]
    worst: dict[int, list[float]] = {}
    for number in range(0, 40, 2):
        data = column[number]["bytes"].as_py()
        facts, _ = read_strictly(data)
        crop = Crop(facts.width // 9, facts.height // 7, facts.width * 3 // 4, facts.height * 4 // 5, mirrored=False)
        for side in (112, 48, 24, 12):
            worst.setdefault(jpeg_scale(crop, (side, side)), []).append(difference_to_pillow(data, crop, (side, side)))
    assert set(worst) >= {1, 2, 4, 8}
    for scale, differences in worst.items():
        assert np.mean(differences) < (0.1 if scale == 1 else 1.0), f"scale 1/{scale}"
