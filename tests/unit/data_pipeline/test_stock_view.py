"""Pixels of the stock view are those of plain timm code, to the bit, on pictures of any kind and through the loader."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from timm.data.transforms_factory import create_transform

from data_pipeline.arrays import Pixels
from data_pipeline.augment import CenterCrop, MultiView, View
from data_pipeline.chunks import chunks
from data_pipeline.config import ShardConfig
from data_pipeline.decode import read_strictly
from data_pipeline.manifest import Manifest, read_manifest
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from data_pipeline.stock_view import StockView
from data_pipeline.stream import Stream
from data_pipeline.view_pixels import ViewDecoder
from launch.console import Console

MakeDataset = Callable[..., Manifest]

SAMPLES = Path(__file__).parents[4] / "shared/data/imagenet_samples/train.parquet"
SIZES = [(57, 43), (43, 57), (31, 29), (64, 64), (9, 200), (200, 9), (1, 1)]  # also smaller than what is shown
VIEWS = [
    StockView((32, 32)),
    StockView((32, 32), "bilinear", 1.0, "squash"),
    StockView((32, 48), "lanczos", 0.95, "squash"),
    StockView((32, 32), "bicubic", 0.9, "border", mean=(0.5, 0.25, 0.75)),
    StockView((48, 32), "nearest", 0.75, "border"),
    StockView((48, 30), "box", 0.8),
]


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(channels).convert(mode)


def encode(image: Image.Image, kind: str = "JPEG", orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def by_timm(data: bytes, view: StockView) -> Pixels:
    """Plain timm code, of the upright image."""
    transform: Any = create_transform(
        view.size,
        is_training=False,
        interpolation=view.interpolation,
        crop_pct=view.crop_fraction,
        crop_mode=view.crop_mode,
        mean=view.mean,
        use_prefetcher=True,  # as timm's loader, which normalises later
    )
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(transform(image.convert("RGB"))).transpose(1, 2, 0)


def by_us(data: bytes, view: StockView) -> Pixels:
    facts, _ = read_strictly(data)
    return view.prepare(ViewDecoder().whole(data, (facts.width, facts.height), facts.orientation))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view.crop_mode}-{view.interpolation}")
def test_pictures_of_any_kind_are_prepared_as_timm_does(view: StockView):
    jpegs = [encode(picture(*size, mode)) for size in SIZES for mode in ("RGB", "L", "CMYK")]
    turned = [encode(picture(57, 43), orientation=orientation) for orientation in range(2, 9)]
    pngs = [encode(picture(57, 43, mode), "PNG") for mode in ("RGB", "L", "P", "RGBA", "LA", "1")]
    for data in (*jpegs, *turned, *pngs):
        found = by_us(data, view)
        assert (found.shape, found.dtype) == ((*view.size, 3), np.uint8)
        np.testing.assert_array_equal(found, by_timm(data, view))


@pytest.mark.skipif(not SAMPLES.exists(), reason="the sample images are not here")
@pytest.mark.parametrize("view", [StockView((224, 224)), StockView((224, 224), "bilinear", 0.95, "squash")])
def test_photographs_are_prepared_as_timm_does(view: StockView):
    rows = pq.read_table(SAMPLES, columns=["image"])["image"]
    for row in itertools.islice(rows, 0, None, 29):
        data = row["bytes"].as_py()
        np.testing.assert_array_equal(by_us(data, view), by_timm(data, view))


def test_a_photograph_stored_on_its_side_is_shown_upright_where_timm_shows_it_as_stored():
    data, view = encode(picture(57, 43), orientation=6), StockView((32, 32))
    plain: Any = create_transform(32, interpolation="bicubic", use_prefetcher=True)
    stored = np.asarray(plain(Image.open(io.BytesIO(data)).convert("RGB"))).transpose(1, 2, 0)
    np.testing.assert_array_equal(by_us(encode(picture(57, 43)), view), stored)
    assert (by_us(data, view) != stored).any()


def test_grey_values_of_16_bits_are_scaled_where_pillow_clips_them():
    values = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    data, view = encode(Image.fromarray(values), "PNG"), StockView((40, 40), crop_fraction=1.0)
    np.testing.assert_array_equal(by_us(data, view)[..., 0], values >> 8)
    assert (by_timm(data, view) == 255).mean() > 0.9


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_shows_it_row_for_row(tmp_path: Path, workers: int):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, (width, height) in enumerate([(57, 43), (43, 57), (20, 30), (400, 300), (64, 64)]):
        data = encode(picture(width, height, "RGB" if number % 2 else "L"), orientation=1 + number)
        (pictures / f"{number}.jpg").write_bytes(data)
    shard_dataset(ShardConfig(source=str(pictures), out=str(tmp_path / "data"), workers=1), Console(rank=1))
    manifest, view = read_manifest(tmp_path / "data"), VIEWS[3]
    names = (manifest.folder / manifest.split("train").shards[0].names).read_text().split()
    shown = [
        image
        for chunk in chunks(Part(manifest, "train"), view, 3, workers=workers)
        for image, valid in zip(chunk.images, chunk.valid, strict=True)
        if valid
    ]
    assert len(shown) == len(names) == 5
    for name, image in zip(names, shown, strict=True):
        np.testing.assert_array_equal(image, by_timm((pictures / name).read_bytes(), view))


def test_arrays_of_three_channels_are_shown_as_pictures_and_others_refused(make_dataset: MakeDataset):
    view = StockView((8, 8), crop_fraction=1.0)
    manifest = make_dataset([3], array=(3, "uint8"))
    (chunk,) = chunks(Part(manifest, "train"), view, 3)
    (expected,) = chunks(Part(manifest, "train"), CenterCrop((8, 8)), 3)
    np.testing.assert_array_equal(chunk.images, expected.images)
    for array in ((1, "uint8"), (3, "uint16")):
        part = Part(make_dataset([3], array=array), "train")
        message = f"works on 3 channels of uint8 only, and these images have {array[0]} of {array[1]}; show them with"
        with pytest.raises(ValueError, match=message):
            next(chunks(part, view, 3))
        with pytest.raises(ValueError, match=message):
            Stream([part], view, batch_size=1, seed=0)


def test_what_does_not_decode_is_left_out_of_the_chunk(make_dataset: MakeDataset):
    part = Part(make_dataset([5], broken=[2]), "train")
    (chunk,) = chunks(part, StockView((8, 8)), 5)
    assert chunk.valid.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_caches_hold_other_pixels_and_are_refused(make_dataset: MakeDataset, cache: Any):
    with pytest.raises(ValueError, match=rf"--cache {cache} keeps images as libjpeg-turbo.*; use --cache none"):
        Stream([Part(make_dataset([5]), "train")], StockView((8, 8)), batch_size=1, seed=0, cache=cache)


def test_it_is_a_view_that_stands_alone():
    view = StockView((8, 8))
    assert isinstance(view, View)
    with pytest.raises(TypeError, match=r"MultiView: StockView\(.* is made of whole images; give it alone"):
        MultiView(((view, 1),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (0, 8)}, r"size is \(0, 8\), expected a height and a width"),
        ({"interpolation": "random"}, "interpolation is 'random', expected one of nearest, bilinear, bicubic"),
        ({"crop_mode": "centre"}, "crop_mode is 'centre', expected one of center, squash, border"),
        ({"crop_fraction": 0.0}, r"crop_fraction is 0\.0, expected more than 0"),
        ({"mean": (0.5,)}, "mean has 1 values, expected 3"),
    ],
)
def test_what_timm_would_not_understand_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        StockView(**{"size": (8, 8), **options})
