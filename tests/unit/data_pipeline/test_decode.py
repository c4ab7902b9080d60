"""Bytes to pixels: every format and mode against its plain meaning, orientation, strictness."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from data_pipeline.decode import DecodeError, decode, read_strictly, sniff, to_png, upright


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
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "MPO"])
def test_orientation_is_that_of_pillow(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(picture(48, 32), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    facts, pixels = read_strictly(data)
    extension = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png"}.get(kind, "other")
    left = 1 if kind == "TIFF" else orientation  # Pillow applies that of a TIFF when it loads the pixels
    assert facts == (extension, expected.shape[1], expected.shape[0], left, 3, "uint8")
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(upright(decode(data), facts.orientation), expected)  # as the stream reads it


def test_broken_metadata_is_no_broken_image() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encode(picture(48, 32), exif=exif)
    at = data.index(b"Exif\0\0")
    facts, _ = read_strictly(data[: at + 6] + b"\xff" * 8 + data[at + 14 :])
    assert (facts.width, facts.height, facts.orientation) == (48, 32, 1)


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
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


def test_decompression_bombs_of_png_are_refused() -> None:
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DecodeError, match="decompression bomb"):
        read_strictly(bytes(data))


def test_decompression_bombs_of_every_decoder_are_refused() -> None:
    jpeg = bytearray(encode(Image.new("CMYK", (8, 8))))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    bitmap = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    bitmap[18:26] = (15_000).to_bytes(4, "little") * 2
    for data in (bytes(jpeg), bytes(bitmap)):
        with pytest.raises(DecodeError, match="decompression bomb"):
            read_strictly(data)


def test_programs_are_not_run() -> None:
    with pytest.raises(DecodeError, match="EPS is a program"):
        read_strictly(encode(picture(8, 8), "EPS"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
def test_lossless_formats_give_back_what_was_stored(kind: str) -> None:
    image = picture(40, 30).quantize(200).convert("RGB")  # so that a GIF can hold it
    facts, pixels = read_strictly(encode(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert facts == ("png" if kind == "PNG" else "other", 40, 30, 1, 3, "uint8")
    np.testing.assert_array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossy_formats_come_close(kind: str, mode: str) -> None:
    image = picture(160, 120).convert(mode)
    _, pixels = read_strictly(encode(image, kind, quality=95))
    difference = np.abs(pixels.astype(int) - np.asarray(image.convert("RGB"))).mean()
    assert pixels.shape == (120, 160, 3)
    assert difference < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_moving_pictures_the_first_frame_is_shown(kind: str) -> None:
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    _, pixels = read_strictly(encode(first, kind, save_all=True, append_images=[second]))
    assert np.abs(pixels.astype(int) - np.asarray(first)).max() < 8


def colours(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture of a mode, and its plain meaning in RGB: alpha dropped, palettes looked up, ink on white paper."""
    values = np.random.default_rng(1).integers(0, 256, (12, 16, 4), np.uint8)
    grey = np.repeat(values[..., :1], 3, -1)
    if mode == "1":
        return Image.fromarray(values[..., 0] > 99), np.where(grey > 99, 255, 0)
    if mode == "L":
        return Image.fromarray(values[..., 0]), grey
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(values[..., band]) for band in (0, 3)]), grey
    if mode in ("P", "PA"):
        palette = np.random.default_rng(2).integers(0, 256, (256, 3), np.uint8)
        image = Image.fromarray(values[..., 0]).copy()
        image.putpalette(palette.tobytes())
        if mode == "PA":
            image = image.convert("PA")
            image.putalpha(Image.fromarray(values[..., 3]))
        return image, palette[values[..., 0]]
    if mode == "CMYK":
        ink, black = values[..., :3].astype(float) / 255, values[..., 3:] / 255
        return Image.frombytes("CMYK", (16, 12), values.tobytes()), 255 * (1 - ink) * (1 - black)
    return Image.fromarray(values[..., : len(mode)]), values[..., :3]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(("TIFF", mode) for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")),
        *(("WEBP", mode) for mode in ("LA", "RGBA")),
        *(("BMP", mode) for mode in ("1", "L", "P")),
        *(("JPEG2000", mode) for mode in ("L", "LA", "RGBA", "CMYK")),
        ("GIF", "P"),
    ],
)
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    image, expected = colours(mode)
    facts, pixels = read_strictly(encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert facts[4:] == (3, "uint8")
    assert np.abs(pixels - expected).max() <= (1 if mode == "CMYK" else 0)


@pytest.mark.parametrize(
    ("mode", "transparency"), [("L", 3), ("P", 3), ("P", bytes(range(256))), ("RGB", (200, 100, 50))]
)
def test_transparent_colours_are_shown_as_they_are_stored(mode: str, transparency: object) -> None:
    image, expected = colours(mode)
    _, pixels = read_strictly(encode(image, "PNG", transparency=transparency))
    np.testing.assert_array_equal(pixels, expected)


def sixteen_bit_png(values: np.ndarray) -> bytes:
    """A PNG written by hand, for Pillow writes 16 bits of grey only. Colour types: RFC 2083, 4.1.1."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0), b"IDAT": zlib.compress(rows)}
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in (*chunks.items(), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_keep_their_high_byte(channels: int) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (12, 16, channels), np.uint16)
    expected = (values >> 8).astype(np.uint8)[..., : 3 if channels > 2 else 1]
    _, pixels = read_strictly(sixteen_bit_png(values))
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (12, 16, 3)))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(mode: str) -> None:
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype({"I;16": "<u2", "I;16B": ">u2", "I": "i4"}[mode])
    image = Image.frombytes(mode, (64, 48), values.tobytes())
    for kind in ("TIFF", "PPM") if mode == "I" else ("TIFF", "PNG"):
        _, pixels = read_strictly(encode(image, kind))
        np.testing.assert_array_equal(pixels, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, -1))


def test_floats_are_grey_values_from_0_to_255() -> None:
    values = np.linspace(0, 255, 64 * 48, dtype=np.float32).reshape(48, 64)
    _, pixels = read_strictly(encode(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels, np.repeat(values.astype(np.uint8)[..., None], 3, -1))
    assert not read_strictly(encode(Image.fromarray(values * 0), "TIFF"))[1].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70_000]], np.int32), r"grey values from 0 to 70000, expected 0 to 65535: store it as \.npy"),
        (np.array([[-3, 5]], np.int32), r"grey values from -3 to 5"),
        (np.array([[0, 300]], np.float32), r"grey values from 0 to 300, expected 0 to 255"),
        (np.array([[0, np.nan]], np.float32), r"grey values from nan to nan"),
        (np.array([[0, 0.5]], np.float32), r"from 0 to 1, where 0 to 255 is expected"),
    ],
)
def test_grey_values_that_rgb_would_distort_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        read_strictly(encode(Image.fromarray(values), "TIFF"))


def as_ycck(image: Image.Image) -> bytes:
    """The picture's inks as luma, chroma and black: Adobe's marker says how, and Pillow writes plain CMYK only."""
    ink = Image.merge("RGB", image.split()[:3]).convert("YCbCr")
    turned = Image.merge("CMYK", [*(band.point(lambda value: 255 - value) for band in ink.split()), image.split()[3]])
    data = bytearray(encode(turned, quality=100, subsampling=0))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data[marker + 11] = 2
    return bytes(data)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_inks_become_colours_at_any_scale(scale: int) -> None:
    image = picture(64, 48).convert("CMYK")
    inks = np.asarray(image).astype(float) / 255
    expected = 255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])
    expected = expected.reshape(48 // scale, scale, 64 // scale, scale, 3).mean((1, 3))
    for data in (encode(image, quality=100, subsampling=0), as_ycck(image)):
        found = decode(data, scale)
        assert np.abs(found - expected).max() < 12
        assert np.abs(found - expected).mean() < 2
        assert read_strictly(data)[0] == ("jpg", 64, 48, 1, 3, "uint8")


def test_bytes_speak_for_themselves_whatever_the_file_is_called() -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((4, 5), np.uint8))
    kinds = {"PNG": "png", "JPEG": "jpg", "WEBP": "other", "GIF": "other", "TIFF": "other", "AVIF": "other"}
    assert [sniff(encode(picture(8, 8), kind)) for kind in kinds] == list(kinds.values())
    assert sniff(array.getvalue()) == sniff(memoryview(array.getvalue())) == "npy"


@pytest.mark.parametrize("grey", [False, True])
def test_to_png_is_lossless(grey: bool) -> None:
    image = picture(40, 30)
    pixels = np.asarray(image.convert("L").convert("RGB") if grey else image)
    with Image.open(io.BytesIO(to_png(pixels))) as stored:
        assert stored.mode == ("L" if grey else "RGB")
        np.testing.assert_array_equal(np.asarray(stored.convert("RGB")), pixels)
    assert to_png(pixels) == to_png(pixels.copy())
