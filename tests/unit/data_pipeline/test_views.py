"""Pixels of views: those of Pillow's bicubic resize, of any type and number of channels, several from one decoding."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.augment import CenterCrop, Crop, MultiView, RandomResizedCrop, check_policies, groups_of
from data_pipeline.chunks import chunks
from data_pipeline.colour_jitter import ColourJitter
from data_pipeline.decode import DecodeError, read_strictly
from data_pipeline.manifest import DatasetError, Manifest
from data_pipeline.order import Plan
from data_pipeline.policy import InTurn
from data_pipeline.rand_augment import RandAugment
from data_pipeline.randomness import Draws, Purpose
from data_pipeline.rows import Part
from data_pipeline.storage import ShardReader
from data_pipeline.stream import Stream
from data_pipeline.three_augment import ThreeAugment
from data_pipeline.view_pixels import Size, ViewDecoder, jpeg_scale, snap

MakeDataset = Callable[..., Manifest]

VIEW = RandomResizedCrop((8, 8))
SEVERAL = MultiView(((RandomResizedCrop((8, 8)), 2), (RandomResizedCrop((4, 6), scale=(0.05, 0.4)), 3)))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs and some texture: neither flat nor pure noise."""
    random = np.random.default_rng(seed)
    blobs = Image.fromarray(random.integers(0, 256, (6, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    texture = random.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(blobs) + texture, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=92)
    return buffer.getvalue()


def npy(values: np.ndarray) -> memoryview:
    """Read-only bytes, as a mapped file gives them."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return memoryview(buffer.getvalue())


def decode_views(
    data: bytes | memoryview, full: tuple[int, int], orientation: int, wanted: list[tuple[Crop, Size]]
) -> list[np.ndarray]:
    return [view.copy() for view in ViewDecoder().views(data, full, orientation, wanted)]


def decode_view(
    data: bytes | memoryview, full: tuple[int, int], orientation: int, crop: Crop, size: Size
) -> np.ndarray:
    return decode_views(data, full, orientation, [(crop, size)])[0]


def resized(values: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """Each channel cropped and resized by Pillow, which takes uint8, and all else as floating point."""
    channels = np.moveaxis(values if values.dtype == np.uint8 else values.astype(np.float32), -1, 0)
    planes = [Image.fromarray(plane).crop(box).resize(size[::-1], Image.Resampling.BICUBIC) for plane in channels]
    return np.stack([np.asarray(plane) for plane in planes], -1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize(("dtype", "limit"), [("uint8", 2.0), ("uint16", 0.8), ("float32", 1e-5)])
@pytest.mark.parametrize("size", [(16, 12), (90, 110)])
def test_arrays_of_any_type_are_resized_as_pillow_does(channels: int, dtype: str, limit: float, size: tuple[int, int]):
    most = 1 if dtype == "float32" else np.iinfo(dtype).max
    values = (np.random.default_rng(channels).random((50, 60, channels)) * most).astype(dtype)
    crop = Crop(5, 7, 43, 31, mirrored=True)
    found = decode_view(npy(values), (60, 50), 1, crop, size)
    expected = resized(values, (5, 7, 48, 38), size)[:, ::-1]
    if dtype == "uint16":
        assert size < (50, 60) or expected.min() < 0 < most < expected.max()  # overshoots, which must not wrap around
        expected = expected.clip(0, most)
    assert (found.dtype, found.shape) == (np.dtype(dtype), (*size, channels))
    assert np.abs(found.astype(np.float64) - expected).max() <= limit


def test_floats_are_not_clipped():
    values = np.zeros((20, 20, 1), np.float32)
    values[:, 10:] = 1
    found = decode_view(npy(values), (20, 20), 1, Crop(0, 0, 20, 20, mirrored=False), (40, 40))
    assert found.min() < -0.01
    assert found.max() > 1.01


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_whole_arrays_pass_unchanged(dtype: str):
    values = (np.random.default_rng(0).random((8, 9, 5)) * 200).astype(dtype)
    found = decode_view(npy(values), (9, 8), 1, Crop(0, 0, 9, 8, mirrored=False), (8, 9))
    np.testing.assert_array_equal(found, values)


def test_bytes_that_are_not_what_their_name_says_are_viewed_all_the_same():
    view = decode_view(encode(picture(40, 30), "PNG"), (40, 30), 1, Crop(4, 3, 20, 15, mirrored=False), (10, 12))
    assert view.shape == (10, 12, 3)


def test_views_of_inks_are_decoded_at_any_scale():
    image = picture(320, 240)
    crop, size = Crop(0, 0, 320, 240, mirrored=False), (30, 40)
    assert jpeg_scale(crop, size) == 4
    found = decode_view(encode(image.convert("CMYK")), (320, 240), 1, crop, size)
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC), np.int64)
    assert np.abs(found - expected).mean() < 3


def test_views_of_one_image_are_those_of_each_alone_where_it_is_decoded_at_the_same_scale():
    data = encode(picture(300, 200))
    wanted = [(Crop(10, 20, 100, 120, True), (60, 50)), (Crop(0, 0, 30, 40, False), (32, 32))]
    for found, (crop, size) in zip(decode_views(data, (300, 200), 1, wanted), wanted, strict=True):
        np.testing.assert_array_equal(found, decode_view(data, (300, 200), 1, crop, size))


def test_the_finest_view_decides_the_scale():
    image = picture(1600, 1600)
    data = encode(image)
    coarse, fine = (Crop(0, 0, 1600, 1600, False), (100, 100)), (Crop(400, 400, 200, 200, False), (200, 200))
    assert [jpeg_scale(*coarse), jpeg_scale(*fine)] == [8, 1]
    small, sharp = decode_views(data, (1600, 1600), 1, [coarse, fine])
    np.testing.assert_array_equal(sharp, read_strictly(data)[1][400:600, 400:600])
    expected = np.asarray(image.resize((100, 100), Image.Resampling.BICUBIC), np.int64)
    assert np.abs(small - expected).mean() < 1


def test_groups_are_checked():
    view = CenterCrop((8, 8))
    assert groups_of(view) == ((view, 1),)
    assert groups_of(MultiView(((view, 2),))) == ((view, 2),)
    with pytest.raises(ValueError, match="MultiView: no groups"):
        MultiView(())
    with pytest.raises(ValueError, match=r"MultiView: 0 copies of CenterCrop.*; expected at least 1"):
        MultiView(((view, 0),))
    with pytest.raises(TypeError, match=r"MultiView: MultiView.* is no view"):
        MultiView(((MultiView(((view, 1),)), 2),))  # type: ignore[arg-type]


def test_policies_are_for_rgb():
    view = MultiView(((CenterCrop((8, 8)), 1), (RandomResizedCrop((8, 8), policy=RandAugment("rand-m9")), 2)))
    check_policies(view, 3, "uint8")
    check_policies(CenterCrop((8, 8)), 13, "uint16")
    for channels, dtype in ((4, "uint8"), (3, "uint16")):
        message = rf"^policy rand-m9: changes 3 channels of uint8 only, .* have {channels} of {dtype}; leave the policy"
        with pytest.raises(ValueError, match=message):
            check_policies(view, channels, dtype)
    several = RandomResizedCrop((8, 8), policy=InTurn((ThreeAugment(), ColourJitter(0.3))))
    check_policies(several, 3, "uint8")
    with pytest.raises(ValueError, match=r"^policy 3-Augment, then colour jitter 0\.3: changes .* have 1 of uint8"):
        check_policies(several, 1, "uint8")


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


@pytest.mark.parametrize("array", [(3, "uint8"), (13, "uint16")])
def test_pixels_are_a_function_of_the_samples_key(make_dataset: MakeDataset, array: tuple[int, str]):
    """Of (seed, dataset, epoch, sample, view, purpose) for the first copy, and its number for the others."""
    manifest = make_dataset([7], array=array)
    split = manifest.split("train")
    reader, fingerprint = ShardReader(manifest, split), int(split.fingerprint[:16], 16)
    (batch,) = Stream([Part(manifest, "train")], SEVERAL, batch_size=14, seed=3, epochs=2)
    (plain,) = Stream([Part(manifest, "train")], VIEW, batch_size=14, seed=3, epochs=2)
    assert torch.equal(plain.images, batch.views[0][:, 0])
    views = [view for view, copies in SEVERAL.groups for _ in range(copies)]
    copies = [batch.views[group][:, copy] for group, (_, count) in enumerate(SEVERAL.groups) for copy in range(count)]
    for row, (sample, epoch) in enumerate(zip(batch.samples.tolist(), batch.epochs.tolist(), strict=True)):
        data, _ = reader.image(0, sample)
        for number, (view, shown) in enumerate(zip(views, copies, strict=True)):
            words = (3, fingerprint, epoch, sample, 0, Purpose.PIXELS, *([number] if number else []))
            crop = view.draw(Draws(*words), 8, 8)
            np.testing.assert_array_equal(shown[row], decode_view(data, (8, 8), 1, crop, view.size))


@pytest.mark.parametrize("workers", [0, 1])
def test_several_views_come_in_groups(make_dataset: MakeDataset, workers: int):
    manifest = make_dataset([20], array=(4, "uint16"))
    stream = Stream([Part(manifest, "train")], SEVERAL, batch_size=5, seed=0, epochs=1, workers=workers)
    for batch in stream:
        assert [tuple(views.shape) for views in batch.views] == [(5, 2, 8, 8, 4), (5, 3, 4, 6, 4)]
        assert {views.dtype for views in batch.views} == {torch.uint16}
        assert not torch.equal(batch.views[0][:, 0], batch.views[0][:, 1])
        with pytest.raises(
            ValueError, match=r"the batch has 2 \+ 3 views of every sample: take them from batch\.views"
        ):
            _ = batch.images
    stream.close()


def test_parts_of_a_mixture_have_the_same_pixels(make_dataset: MakeDataset):
    one, two, other = make_dataset([24]), make_dataset([9]), make_dataset([9], array=(4, "uint16"))
    plan = Plan(lanes=4, weights=(3, 1))
    Stream([Part(one, "train"), Part(two, "train")], VIEW, batch_size=16, seed=0, plan=plan)
    message = rf"{one.folder} \[train\] has 3 channels of uint8, {other.folder} \[train\] has 4 of uint16: the parts of"
    with pytest.raises(ValueError, match=message):
        Stream([Part(one, "train"), Part(other, "train")], VIEW, batch_size=16, seed=0, plan=plan)
    with pytest.raises(
        ValueError, match="policy rand-m9: changes 3 channels of uint8 only, and these images have 4 of"
    ):
        Stream([Part(other, "train")], RandomResizedCrop((8, 8), policy=RandAugment("rand-m9")), batch_size=3, seed=0)


def test_samples_of_other_pixels_than_the_manifest_says_are_not_stretched(make_dataset: MakeDataset):
    manifest = make_dataset([2000], array=(1, "uint8"), broken=range(1, 2000))
    split = replace(manifest.split("train"), channels=3)
    manifest = replace(manifest, splits={"train": split})
    with pytest.raises(DatasetError, match="none of its 2000 samples decodes"):
        next(iter(Stream([Part(manifest, "train")], VIEW, batch_size=1, seed=0)))


def test_evaluation_chunks_of_arrays_are_padded_with_zeros(make_dataset: MakeDataset):
    manifest = make_dataset([7], array=(13, "uint16"), broken=[2])
    one, two = chunks(Part(manifest, "train"), CenterCrop((8, 8)), 5)
    assert (one.images.dtype, tuple(one.images.shape)) == (torch.uint16, (5, 8, 8, 13))
    assert one.valid.tolist() == [True, True, False, True, True]
    assert two.valid.tolist() == [True, True, False, False, False]
    for chunk in (one, two):
        assert [bool(image.numpy().any()) for image in chunk.images] == chunk.valid.tolist()
