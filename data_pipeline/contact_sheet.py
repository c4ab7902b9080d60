"""A contact sheet: thumbnails from all over a split, each with its class below."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data_pipeline.arrays import DecodeError, Pixels
from data_pipeline.decode import decode, upright
from data_pipeline.manifest import NO_LABEL, Manifest, Split, key_prefix, locate_sample, sample_starts
from data_pipeline.order import Integers
from data_pipeline.randomness import Purpose, hash_array, key
from data_pipeline.storage import ShardReader

if TYPE_CHECKING:
    from PIL import Image as PillowImage
    from PIL.ImageFont import FreeTypeFont

_THUMBNAIL = 112  # pixels
_GAP = 10
_CAPTION = 22
_MARGIN = 24
_HEADING = 44
_PAPER, _INK, _FAINT, _EMPTY = (255, 255, 255), (32, 32, 36), (120, 120, 128), (238, 238, 240)


def contact_sheet(manifest: Manifest, split: str, count: int, seed: int, report: Callable[[int], None]) -> bytes:
    """A PNG of `count` samples of a split, or of all where it has fewer.

    Raises:
        ValueError: no such split.
        DatasetError: bytes that are absent or altered.
    """
    from PIL import Image, ImageDraw

    described = manifest.split(split)
    chosen = choose_samples(described, count, seed)
    columns = min(len(chosen), max(4, round(np.sqrt(1.6 * len(chosen)))))
    rows = -(-len(chosen) // columns)
    step = _THUMBNAIL + _GAP
    size = 2 * _MARGIN + columns * step - _GAP, 2 * _MARGIN + _HEADING + rows * (step + _CAPTION) - _GAP
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    title, small = _font(19), _font(11)
    heading = f"{manifest.folder.resolve().name} [{split}]"
    draw.text((_MARGIN, _MARGIN - 4), _shortened(heading, title, size[0] - 2 * _MARGIN), fill=_INK, font=title)
    told = f"{len(chosen):,} of {described.present:,} samples, seed {seed}"
    draw.text((_MARGIN, _MARGIN + 22), _shortened(told, small, size[0] - 2 * _MARGIN), fill=_FAINT, font=small)
    reader = ShardReader(manifest, described)
    shards, indexes = locate_sample(sample_starts(described), chosen)
    for place, (shard, row) in enumerate(zip(shards.tolist(), indexes.tolist(), strict=True)):
        x = _MARGIN + place % columns * step
        y = _MARGIN + _HEADING + place // columns * (step + _CAPTION)
        data, entry = reader.image(shard, row)
        try:
            thumbnail = _thumbnail(data, entry)
        except DecodeError:
            draw.rectangle((x, y, x + _THUMBNAIL - 1, y + _THUMBNAIL - 1), fill=_EMPTY)
            text = "does not decode"
            left = x + (_THUMBNAIL - small.getlength(text)) / 2
            draw.text((left, y + _THUMBNAIL / 2 - 7), text, fill=_FAINT, font=small)
        else:
            left, top = x + (_THUMBNAIL - thumbnail.width) // 2, y + (_THUMBNAIL - thumbnail.height) // 2
            sheet.paste(thumbnail, (left, top))
        caption = _shortened(_caption(manifest, split, entry, small), small, _THUMBNAIL)
        middle = x + (_THUMBNAIL - small.getlength(caption)) / 2
        draw.text((middle, y + _THUMBNAIL + 3), caption, fill=_INK, font=small)
        report(1)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def choose_samples(split: Split, count: int, seed: int) -> Integers:
    """Increasing numbers of samples that take part, at most `count`, spread evenly over the split and so its shards.

    Each is drawn from an equal piece of the split, so that memory does not grow with it.
    """
    count = min(count, split.present)
    bounds = np.arange(count + 1, dtype=np.int64) * split.present // count
    luck = hash_array(key(seed, Purpose.SUBSET), np.arange(count, dtype=np.uint64))
    places = bounds[:-1] + (luck % np.diff(bounds).astype(np.uint64)).astype(np.int64)
    left_out = np.asarray(split.withdrawn, np.int64)
    return places + np.searchsorted(left_out - np.arange(len(left_out)), places, side="right")


def to_picture(pixels: Pixels) -> NDArray[np.uint8]:
    """RGB or grey as (height, width, 3) of uint8: the first three channels, or the first of fewer; other types than
    uint8 are stretched so that all but the outermost percent of the values fit.
    """
    shown = pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
    if shown.dtype == np.uint8:
        return shown
    values = shown.astype(np.float64)
    low, high = np.percentile(values, (1, 99))
    return (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def _thumbnail(data: memoryview, entry: np.void) -> "PillowImage.Image":
    from PIL import Image

    short, long = sorted((int(entry["width"]), int(entry["height"])))
    scale = max(factor for factor in (1, 2, 4, 8) if factor == 1 or short >= factor * _THUMBNAIL)
    pixels = upright(decode(data, scale), int(entry["orientation"]))
    picture = Image.fromarray(np.ascontiguousarray(to_picture(pixels)))
    if long <= _THUMBNAIL // 2:  # pixels that can be counted are shown as such
        factor = _THUMBNAIL // long
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    factor = _THUMBNAIL / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _caption(manifest: Manifest, split: str, entry: np.void, font: "FreeTypeFont") -> str:
    label = int(entry["label"])
    if label == NO_LABEL:
        return f"{key_prefix(split)}-{int(entry['place']):09d}" if manifest.classes is None else "no label"
    classes = manifest.classes or ()
    return classes[label] if label < len(classes) and _can_draw(classes[label], font) else f"class {label}"


def _font(size: int) -> "FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib: Pillow's own font lacks letters as common as ü."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _can_draw(text: str, font: "FreeTypeFont") -> bool:
    """Whether the font has every letter: one that it lacks is drawn as what is no letter at all."""
    missing = _drawn("\uffff", font)
    return all(_drawn(letter, font) != missing for letter in set(text) - {" "})


def _drawn(letter: str, font: "FreeTypeFont") -> bytes:
    from PIL import Image, ImageDraw

    image = Image.new("L", (24, 24))
    ImageDraw.Draw(image).text((4, 4), letter, fill=255, font=font)
    return image.tobytes()


def _shortened(text: str, font: "FreeTypeFont", width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
