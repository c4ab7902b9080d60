"""Images that are decoded once: the same batches as without, in this machine's memory or on a device."""

import gc
from collections.abc import Callable
from multiprocessing import RawArray
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from data_pipeline.augment import CenterCrop, MultiView, RandomResizedCrop
from data_pipeline.config import ShardConfig
from data_pipeline.decoded import Decoded
from data_pipeline.manifest import Manifest
from data_pipeline.order import Plan
from data_pipeline.rand_augment import RandAugment
from data_pipeline.rows import Part
from data_pipeline.sharding import shard_dataset
from data_pipeline.stream import Batch, Stream
from launch.console import Console

MakeDataset = Callable[..., Manifest]
Write = Callable[..., Manifest]


@pytest.fixture
def photographs(tmp_path: Path) -> Write:
    """Writes so many JPEGs of many sizes, grey ones and turned ones among them."""

    def write(name: str, count: int, least: int = 9) -> Manifest:
        folder, random = tmp_path / name, np.random.default_rng(len(name))
        folder.mkdir()
        for number in range(count):
            size = tuple(int(side) for side in random.integers(least, 2 * least + 9, 2))
            blobs = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
            image = blobs.resize(size, Image.Resampling.BICUBIC).convert("L" if number % 5 == 3 else "RGB")
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 1 + number % 8
            image.save(folder / f"{number}.jpg", quality=93, exif=exif)
        config = ShardConfig(source=str(folder), out=str(tmp_path / f"{name}-data"), workers=1, labels="none")
        return shard_dataset(config, Console(rank=1))

    return write


VIEW = RandomResizedCrop((8, 8), scale=(0.1, 1.0))


def batches(manifests: list[Manifest], view: Any = VIEW, **options: Any) -> list[Batch]:
    plan = Plan(lanes=4, weights=options.pop("weights", (1,) * len(manifests)))
    parts = [Part(manifest, "train") for manifest in manifests]
    stream = Stream(parts, view, batch_size=6, seed=5, plan=plan, epochs=3, **options)
    found = list(stream)
    assert stream.report.from_memory == (0 if options.get("cache", "none") == "none" else stream.report.rows)
    stream.close()
    return found


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other) > 3
    for a, b in zip(one, other, strict=True):
        assert len(a.views) == len(b.views)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.positions, b.positions)


@pytest.mark.parametrize("cache", ["memory", "device"])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_the_same(photographs: Write, cache: str, workers: int):
    manifest = photographs("some", 19)
    assert_same(batches([manifest]), batches([manifest], cache=cache, workers=workers))


@pytest.mark.parametrize("cache", ["memory", "device"])
def test_mixtures_subsets_and_several_views_are_the_same(photographs: Write, cache: str):
    manifests = [photographs("some", 16), photographs("others", 9)]
    several = MultiView(((VIEW, 2), (CenterCrop((6, 10), 0.8), 1), (RandomResizedCrop((4, 4)), 3)))
    members = [np.array([0, 3, 4, 7, 11]), None]
    options = {"view": several, "weights": (2, 1), "members": members}
    assert_same(batches(manifests, **options), batches(manifests, **options, cache=cache))


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (5, "uint16"), (2, "float32")])
def test_arrays_are_kept_in_memory_as_they_are(make_dataset: MakeDataset, channels: int, dtype: str):
    manifest = make_dataset([14], array=(channels, dtype))
    assert_same(batches([manifest]), batches([manifest], cache="memory"))


def test_policies_go_on_from_what_is_kept(photographs: Write):
    manifest, view = photographs("some", 16), RandomResizedCrop((8, 8), policy=RandAugment("rand-m9-n2"))
    assert_same(batches([manifest], view), batches([manifest], view, cache="memory"))


def test_images_that_are_decoded_smaller_are_decoded_each_time(photographs: Write):
    manifest = photographs("large", 14, least=64)
    view = CenterCrop((8, 8))
    expected = batches([manifest], view)
    stream = Stream([Part(manifest, "train")], view, batch_size=6, seed=5, plan=Plan(lanes=4), epochs=3, cache="memory")
    assert_same(expected, list(stream))
    assert stream.report.from_memory == 0
    with pytest.raises(ValueError, match=r"--cache device.*--cache memory"):
        batches([manifest], view, cache="device")


def test_what_does_not_decode_is_substituted_all_the_same(make_dataset: MakeDataset):
    manifest = make_dataset([2000], broken=[3])
    part, options = [Part(manifest, "train")], {"batch_size": 500, "seed": 1, "epochs": 1}
    plain, cached = Stream(part, VIEW, **options), Stream(part, VIEW, **options, cache="memory")  # type: ignore[arg-type]
    assert_same(list(plain), list(cached))
    assert plain.state()["substitutions"] == cached.state()["substitutions"] != []
    with pytest.raises(
        ValueError, match=r"train-000000\.tar: sample 3 does not decode \(1 like it\), and --cache device"
    ):
        next(iter(Stream(part, VIEW, **options, cache="device")))  # type: ignore[arg-type]


def test_a_device_cache_has_no_policies(make_dataset: MakeDataset):
    view = RandomResizedCrop((8, 8), policy=RandAugment("rand-m9"))
    with pytest.raises(ValueError, match=r"--cache device: rand-m9 .* use --cache memory"):
        batches([make_dataset([14])], view, cache="device")


def test_what_does_not_fit_the_memory_is_refused(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("data_pipeline.decoded._MOST_SHARE", 1e-12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(
        ValueError, match=r"--cache: 14 decoded images take 0.0 GB in each of 4 processes, and \d.* free"
    ):
        batches([make_dataset([14])], cache="memory")


def test_opening_says_what_is_decoded(make_dataset: MakeDataset):
    said: list[str] = []
    stream = Stream([Part(make_dataset([14]), "train")], VIEW, batch_size=7, seed=0, epochs=1, cache="memory")
    filling = stream.open(said.append)
    assert stream.open(said.append) is filling
    assert len(said) == 2
    assert said[0].startswith("decoding 14 images once, into 0.0 MB")
    assert len(list(stream)) == 2


def test_what_is_kept_is_shared_not_copied(make_dataset: MakeDataset):
    """Pickling it, but as a process starts, would copy all pixels."""
    decoded = Decoded(RawArray("B", 12), (), 3, "uint8")
    with pytest.raises(RuntimeError, match="should only be shared"):
        ForkingPickler.dumps(decoded)


def test_what_is_kept_is_not_given_to_the_next_ring(photographs: Write):
    """Only the workers look at the pixels, but their memory is this process's to give away."""
    part = Part(photographs("some", 19), "train")
    plain = batches([part.manifest])
    stream = Stream([part], VIEW, batch_size=6, seed=5, plan=Plan(lanes=4), epochs=3, cache="memory", workers=1)
    found = []
    for number, batch in enumerate(stream):
        found.append(batch)
        if number == 2:  # the worker has begun: until then more than the stream holds on to it
            gc.collect()
            others = Stream([part], VIEW, batch_size=19, seed=6, plan=Plan(lanes=4), epochs=9, workers=1)
            assert len(list(others)) > 0
            others.close()
    stream.close()
    assert_same(plain, found)
