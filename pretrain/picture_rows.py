"""A sheet of pictures in labelled rows, as a PNG whose pixels are whole multiples of the images'."""

import io
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_pipeline.contact_sheet import to_picture

# In pixels. Sheets are shown at half their size, or on screens with two pixels for each of these.
_TILE = 192
_GAP = 10
_MARGIN = 40
_BETWEEN_ROWS = 34
_PAPER, _INK, _MUTED = (255, 255, 255), (28, 28, 32), (112, 112, 120)
_TITLE, _TEXT = 30, 21
_SPACE = 12
# Of what is covered: stripes, which cannot be taken for part of any picture.
_PITCH, _STRIPE, _BETWEEN_STRIPES = 12, (206, 206, 212), (240, 240, 243)


class PictureRow(NamedTuple):
    """What the row shows, in a few words; what else must be known of it; images: uint8, (b, h, w, c).

    covered: (b, h, w), pixels in whose place there are stripes.
    """

    name: str
    note: str
    images: NDArray[np.uint8]
    covered: NDArray[np.bool_] | None = None


def draw_rows(title: str, note: str, rows: list[PictureRow]) -> bytes:
    """A PNG: the title, the note below it, and each row below its name and note; images of all rows are of one size.

    Of more than three channels the first three are shown, of two the first. Small images are enlarged, their pixels
    squares; large ones are shrunk.
    """
    tiles = [_tiles(row) for row in rows]
    width, height = tiles[0][0].size
    columns = len(tiles[0])
    bold, title_font, plain = _font(_TEXT, bold=True), _font(_TITLE, bold=True), _font(_TEXT)
    starts = [round(bold.getlength(row.name)) + _SPACE for row in rows]  # of the notes
    texts = [start + plain.getlength(row.note) for start, row in zip(starts, rows, strict=True)]
    texts += [title_font.getlength(title), plain.getlength(note)]
    inner = max(columns * (width + _GAP) - _GAP, *(round(length) for length in texts))
    head = _TITLE + _SPACE + _TEXT + _BETWEEN_ROWS
    step = _TEXT + _SPACE + height + _BETWEEN_ROWS
    sheet = Image.new("RGB", (inner + 2 * _MARGIN, head + len(rows) * step - _BETWEEN_ROWS + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=title_font, anchor="lt")
    draw.text((_MARGIN, _MARGIN + _TITLE + _SPACE), note, fill=_MUTED, font=plain)
    for number, (row, start, images) in enumerate(zip(rows, starts, tiles, strict=True)):
        baseline = _MARGIN + head + number * step + _TEXT
        draw.text((_MARGIN, baseline), row.name, fill=_INK, font=bold, anchor="ls")
        draw.text((_MARGIN + start, baseline), row.note, fill=_MUTED, font=plain, anchor="ls")
        for column, image in enumerate(images):
            sheet.paste(image, (_MARGIN + column * (width + _GAP), baseline + _SPACE))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _tiles(row: PictureRow) -> list[Image.Image]:
    pictures = [Image.fromarray(np.ascontiguousarray(to_picture(image))) for image in row.images]
    longer = max(pictures[0].size)
    scale = _TILE / longer if longer > _TILE * 4 // 3 else max(1, _TILE // longer)
    size = max(1, round(pictures[0].width * scale)), max(1, round(pictures[0].height * scale))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    tiles = [picture.resize(size, how) for picture in pictures]
    if row.covered is not None:
        for tile, covered in zip(tiles, row.covered, strict=True):
            tile.paste(_stripes(size), mask=Image.fromarray(covered).resize(size, Image.Resampling.NEAREST))
    return tiles


def _stripes(size: tuple[int, int]) -> Image.Image:
    across, down = (np.arange(count) for count in size)
    is_stripe = (across + down[:, None]) % _PITCH < 2
    colours = np.where(is_stripe[..., None], _STRIPE, _BETWEEN_STRIPES)
    return Image.fromarray(colours.astype(np.uint8))


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: Pillow's own font lacks letters as common as ü."""
    style = "-Bold" if bold else ""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans{style}.ttf", size)
