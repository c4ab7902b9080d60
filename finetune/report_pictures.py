"""Images of a report, as data: URIs, so that the page needs no other file."""

import base64
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_ATTENTION, _SIMILARITY = "inferno", "viridis"
_TILE = 160  # pixels of a tile's longer side, about: a page shows it smaller, on dense screens as many
_SHEET = 360
_MAPS = 14


def png_file(path: Path) -> str:
    """A PNG file's bytes. Raises ValueError where it is no PNG, and OSError."""
    content = path.read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path}: not a PNG file; remove it")
    return _uri(content, "png")


def tile(image: NDArray[np.uint8]) -> str:
    """An image (h, w, 3) at the size at which a page shows it; a small one with its pixels as squares."""
    picture = Image.fromarray(image)
    if max(picture.size) <= _TILE:
        return _encoded(_enlarged(picture, _TILE), "png")
    picture.thumbnail((_TILE, _TILE), Image.Resampling.LANCZOS)
    return _encoded(picture, "jpeg")


def overlay(image: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Weights of patches (rows, columns) over the grey image (h, w, 3), each as large as its patch; the largest is
    brightest.
    """
    height, width = image.shape[:2]
    rows, columns = weights.shape
    assert height % rows == 0
    assert width % columns == 0
    scaled = weights / max(float(weights.max()), 1e-12)
    large = np.kron(scaled, np.ones((height // rows, width // columns)))
    tint = matplotlib.colormaps[_ATTENTION](large)[..., :3] * 255
    grey = image.mean(axis=2, keepdims=True)
    cover = 0.4 + 0.5 * large[..., None]  # what gets little attention shows more of the image
    return ((1 - cover) * grey + cover * tint).round().astype(np.uint8)


def similarity_maps(similarity: NDArray[np.float32]) -> tuple[str, tuple[int, int], float]:
    """A picture of maps laid out as the patches are: where a map stands is the patch that it compares with all.

    similarity: (rows, columns, rows, columns), at most 1. Of larger grids evenly spaced patches have a map, 14 a side.
    Returns the picture, how many maps there are (down, across), and the smallest similarity, which is darkest.
    """
    chosen = [_spaced(size) for size in similarity.shape[:2]]
    maps = similarity[np.ix_(*chosen)]
    low = float(maps.min())
    shades = np.clip((maps - low) / max(1 - low, 1e-12), 0, 1)
    pixels = (matplotlib.colormaps[_SIMILARITY](shades) * 255).round().astype(np.uint8)  # (y, x, rows, columns, 4)
    down, across, rows, columns = maps.shape
    gap = max(1, rows // 8)
    framed = np.zeros((down, across, rows + gap, columns + gap, 4), np.uint8)
    framed[:, :, :rows, :columns] = pixels
    sheet = framed.swapaxes(1, 2).reshape(down * (rows + gap), across * (columns + gap), 4)[:-gap, :-gap]
    return _encoded(_enlarged(Image.fromarray(sheet), _SHEET), "png"), (down, across), low


def attention_colours() -> tuple[str, ...]:
    """CSS colours of `overlay`, from low to high."""
    return _colours(_ATTENTION)


def similarity_colours() -> tuple[str, ...]:
    """CSS colours of `similarity_maps`, from low to high."""
    return _colours(_SIMILARITY)


def _colours(name: str) -> tuple[str, ...]:
    return tuple(to_hex(matplotlib.colormaps[name](share)) for share in np.linspace(0, 1, 9))


def _spaced(size: int) -> NDArray[np.int64]:
    return np.linspace(0, size - 1, min(size, _MAPS)).round().astype(np.int64)


def _enlarged(picture: Image.Image, longer_side: int) -> Image.Image:
    """By a whole factor, to at least `longer_side` pixels, every pixel a square."""
    factor = max(1, -(-longer_side // max(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _encoded(picture: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **({"quality": 88} if kind == "jpeg" else {"optimize": True}))
    return _uri(buffer.getvalue(), kind)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
