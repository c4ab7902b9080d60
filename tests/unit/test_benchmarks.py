"""The comparison of loaders: its arithmetic, its checks, and that all show views of the same distribution."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import loader_paths
import loader_rivals
import loader_tables
from loader_contenders import BASES, CONTENDERS, TARGETS, Target
from loader_data import WRITERS, root_of, write_folder
from loader_process import Job, check_batch
from loaders import Options
from machine import describe_machine, machine_line

from data_pipeline.augment import Crop, RandomResizedCrop

NAMES = [contender.name for contender in CONTENDERS]
ROUNDS = [
    {"core-pillow": {"images_per_second": 100.0}, "core-sherd": {"images_per_second": 210.0}},
    {"core-pillow": {"images_per_second": 50.0}, "core-sherd": {"images_per_second": 95.0}},
    {"core-pillow": {"images_per_second": 80.0}, "core-sherd": {"images_per_second": 176.0}},
    {"core-pillow": {"images_per_second": 80.0}},
]
JOB = Job("imagefolder", data="", size=4, seconds=1.0, workers=1, batch_size=32, began=0.0)


def encoded(tmp_path: Path, width: int = 60, height: int = 45) -> loader_paths.Encoded:
    """Soft blobs as a JPEG."""
    blobs = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    image = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
    image.save(tmp_path / "one.jpg", quality=90)
    data = (tmp_path / "one.jpg").read_bytes()
    return loader_paths.Encoded(data, torch.from_numpy(np.frombuffer(data, np.uint8).copy()), width, height)


def test_ratios_are_of_rates_in_the_same_round():
    assert loader_tables.ratios(ROUNDS, "core-sherd", "core-pillow") == pytest.approx([2.1, 1.9, 2.2])
    assert loader_tables.spread([2.1, 1.9, 2.2]) == (2.1, 1.9, 2.2)
    assert loader_tables.ratios(ROUNDS, "sherd", "core-pillow") == []


def test_the_median_ratio_decides_whether_a_target_is_met():
    assert loader_tables.is_met(ROUNDS, Target("core-sherd", 2.1, "core-pillow"))
    assert not loader_tables.is_met(ROUNDS, Target("core-sherd", 2.11, "core-pillow"))
    assert loader_tables.is_met(ROUNDS, Target("core-sherd", 176.0))
    assert not loader_tables.is_met(ROUNDS, Target("core-sherd", 177.0))
    assert not loader_tables.is_met(ROUNDS, Target("sherd", 0.0))  # not measured


def test_a_limit_is_met_from_below():
    rounds = [{"small-1000": {"images_per_second": 1.0, "first_batch_seconds": 0.8}}]
    assert loader_tables.is_met(rounds, Target("small-1000", 0.9, limit="first_batch_seconds"))
    assert not loader_tables.is_met(rounds, Target("small-1000", 0.7, limit="first_batch_seconds"))


def test_tables_say_what_was_measured_and_why_the_rest_was_not():
    rounds = [{name: {**result, "grey_levels_from_pillow": None} for name, result in one.items()} for one in ROUNDS]
    absent = {"core-limit": "not installed: pip install it", "core-sherd": "failed: it fell"}
    text = loader_tables.group_table("core", rounds, absent)
    lines = text.splitlines()
    assert lines[1].split() == ["images/s", "times", "core-pillow", "grey", "levels", "from", "Pillow"]
    assert lines[2].split()[-6:] == ["80", "1.00", "(1.00", "to", "1.00)", "-"]
    assert lines[3].split() == ["sherd", "176", "2.10", "(1.90", "to", "2.20)", "-", "failed:", "it", "fell"]
    assert lines[4].endswith("not installed: pip install it")
    assert loader_tables.group_table("full", rounds, {}) == ""
    targets = loader_tables.target_table(rounds).splitlines()
    assert targets[2].split("  ")[0] == "core-sherd"
    assert targets[2].endswith("at least 2 times core-pillow    2.10 (1.90 to 2.20)  met")
    assert targets[3].endswith("at least 2.8 times core-pillow  2.10 (1.90 to 2.20)  NOT MET")
    assert len(targets) == 4


def test_a_verdict_from_noise_says_so():
    rounds = [{"small-sherd": {"images_per_second": rate}} for rate in (20_000.0, 21_000.0, 26_500.0)]
    assert loader_tables.target_table(rounds).endswith(
        "21,000 (20,000 to 26,500)  met, but rounds differ too much to tell: measure on a quiet machine"
    )
    assert loader_tables.target_table(rounds[:2]).endswith("20,500 (20,000 to 21,000)  met")


def test_columns_of_numbers_go_to_the_right():
    rows = [["one", "1,234", "uint8"], ["a longer one", "-", ""], ["", "7 (6 to 8)", "float32"]]
    assert loader_tables.aligned(["", "images/s", "delivers"], rows) == "\n".join(
        [
            "                images/s  delivers",
            "one                1,234  uint8",
            "a longer one           -",
            "              7 (6 to 8)  float32",
        ]
    )


def test_stages_are_medians_and_the_middle_round_says_what_binds():
    rounds = [
        {
            "sherd": {
                "stages": {
                    "workers": {"read": read, "decode": 900.0},
                    "here": {"wait": 1.0},
                    "busy": 0.9,
                    "images_per_second": rate,
                    "binds": f"decode binds at {rate:.0f}",
                }
            }
        }
        for read, rate in ((10.0, 300.0), (12.0, 100.0), (2000.0, 200.0))
    ]
    lines = loader_tables.stage_table(rounds).splitlines()
    assert lines[2].split()[:5] == ["read", "decode", "resize", "augment", "write"]
    assert lines[3].split() == ["sherd", "12.0", "900.0", "-", "-", "-", "-", "-", "1.0", "-", "-", "-", "90%"]
    assert lines[4:] == ["sherd: decode binds at 200"]


def test_names_are_used_consistently():
    assert len(set(NAMES)) == len(NAMES)
    assert {name for target in TARGETS for name in (target.contender, target.base or target.contender)} <= set(NAMES)
    assert {contender.group for contender in CONTENDERS} == set(BASES)
    assert {contender.data.removeprefix("small/") for contender in CONTENDERS} <= {"folder", *WRITERS}


@pytest.mark.parametrize("contender", CONTENDERS, ids=NAMES)
def test_every_contender_is_set_up_by_a_function_that_exists(contender):
    module, _, name = contender.function.partition(":")
    assert module in {"loader_paths", "loader_reading", "loader_rivals", "loader_sherd"}
    assert f"\ndef {name}(" in (Path(loader_paths.__file__).parent / f"{module}.py").read_text()


@pytest.mark.parametrize(
    "make", [loader_rivals.mae_transform, loader_rivals.mae_transform_uint8], ids=["float", "uint8"]
)
def test_rivals_with_pillow_crop_and_flip_as_we_do(make):
    crop, flip, *_ = make(224).transforms
    ours = RandomResizedCrop((224, 224))
    assert isinstance(crop, transforms.RandomResizedCrop)
    assert (tuple(crop.size), tuple(crop.scale), tuple(crop.ratio)) == (ours.size, ours.scale, ours.ratio)
    assert crop.interpolation == InterpolationMode.BICUBIC
    assert isinstance(flip, transforms.RandomHorizontalFlip)
    assert flip.p == ours.mirror


def test_rivals_without_pillow_crop_and_flip_as_we_do():
    crop, flip = loader_rivals.v2_transform(224).transforms
    ours = RandomResizedCrop((224, 224))
    assert isinstance(crop, v2.RandomResizedCrop)
    assert (tuple(crop.size), tuple(crop.scale), tuple(crop.ratio)) == (ours.size, ours.scale, ours.ratio)
    assert (crop.interpolation, crop.antialias) == (InterpolationMode.BICUBIC, True)
    assert isinstance(flip, v2.RandomHorizontalFlip)
    assert flip.p == ours.mirror


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # of torchvision, in favour of torchcodec
@pytest.mark.parametrize("way", [loader_paths.torchvision_v2, loader_paths.sherd], ids=["torchvision", "sherd"])
def test_all_ways_show_the_same_pixels(tmp_path: Path, way):
    image, crops = encoded(tmp_path), [Crop(7, 5, 40, 30, mirrored=False), Crop(0, 3, 33, 41, mirrored=True)]
    difference = loader_paths.difference(way(16), [image, image], crops, 16)
    assert difference is not None
    assert difference < 1


def test_a_wrong_box_differs_from_pillow(tmp_path: Path):
    right = loader_paths.sherd(16)
    moved = loader_paths.difference(
        lambda image, crop: right(image, crop._replace(left=0)),
        [encoded(tmp_path)],
        [Crop(20, 5, 40, 30, mirrored=False)],
        16,
    )
    assert moved is not None
    assert moved > 1


def test_the_way_of_masked_autoencoders_is_the_uint8_one_normalised(tmp_path: Path):
    image, crop = encoded(tmp_path), Crop(7, 5, 40, 30, mirrored=True)
    shown = loader_paths.pillow(16)(image, crop)
    mean, std = (torch.tensor(values)[:, None, None] for values in (loader_rivals.MEAN, loader_rivals.STD))
    expected = (loader_paths.pillow_uint8(16)(image, crop) / 255 - mean) / std
    torch.testing.assert_close(shown, expected)
    assert loader_paths.difference(loader_paths.pillow(16), [image], [crop], 16) is None


def photographs(size: int = 4) -> torch.Tensor:
    return torch.randint(0, 256, (32, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def shuffled_labels() -> list[int]:
    return torch.randperm(320, generator=torch.Generator().manual_seed(0)).remainder(40).tolist()


def test_whole_shuffled_batches_of_colours_are_accepted():
    check_batch(photographs(), torch.randperm(32), JOB, shuffled_labels())
    check_batch(photographs().permute(0, 2, 3, 1), torch.randperm(32), JOB, shuffled_labels())
    check_batch(photographs() / 255, torch.randperm(32), JOB, shuffled_labels())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (photographs()[:31], r"imagefolder: batch of \(31, 3, 4, 4\) with 32 labels, expected"),
        (photographs(5), r"imagefolder: batch of \(32, 3, 5, 5\)"),
        (photographs()[:, :1].expand(-1, 3, -1, -1), "imagefolder: grey images"),
        (torch.zeros(32, 3, 4, 4), "imagefolder: grey images"),
    ],
    ids=["short", "size", "grey", "black"],
)
def test_other_batches_are_refused(images: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        check_batch(images, torch.randperm(32), JOB, shuffled_labels())


def test_batches_in_the_stored_order_are_refused():
    stored = shuffled_labels()
    with pytest.raises(ValueError, match="27 of 32 labels follow each other as stored: not shuffled"):
        check_batch(photographs(), torch.tensor(stored[100:132]), JOB, stored)
    with pytest.raises(ValueError, match="not shuffled"):
        check_batch(photographs(), torch.zeros(32, dtype=torch.int64), JOB, stored)


def test_a_folder_of_images_holds_real_copies_by_class(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"image": {"bytes": bytes([number]), "path": None}, "label": number % 2} for number in range(3)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    write_folder(tmp_path / "train.parquet", 2, tmp_path)
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in sorted(tmp_path.glob("*/*.jpg"))}
    assert found == {
        "00000/000000-00.jpg": b"\0",
        "00000/000000-01.jpg": b"\0",
        "00000/000002-00.jpg": b"\2",
        "00000/000002-01.jpg": b"\2",
        "00001/000001-00.jpg": b"\1",
        "00001/000001-01.jpg": b"\1",
    }


def test_inputs_of_another_file_go_into_another_folder(tmp_path: Path):
    file = tmp_path / "photos/train.parquet"
    file.parent.mkdir()
    file.write_bytes(b"one")
    first = root_of(tmp_path, file, 10)
    assert first.name.startswith("photos-10-")
    assert root_of(tmp_path, file, 10) == first
    assert root_of(tmp_path, file, 20) != first
    file.write_bytes(b"others")
    assert root_of(tmp_path, file, 10) != first
    with pytest.raises(ValueError, match=r"absent\.parquet: no such file; expected a parquet file"):
        root_of(tmp_path, tmp_path / "absent.parquet", 10)


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="--only sherd2: expected some of core-pillow"):
        Options(only=("sherd", "sherd2"))
    with pytest.raises(ValueError, match="--batch-size is 0, expected at least 1"):
        Options(batch_size=0)
    with pytest.raises(ValueError, match="--seconds is 0, expected more than 0"):
        Options(seconds=0.0)


def test_a_machine_is_described_with_versions():
    described = describe_machine(["numpy", "no-such-distribution"])
    assert described["versions"]["numpy"] == np.__version__
    assert described["versions"]["no-such-distribution"] is None
    assert described["machine"]["cores"] >= 1
    assert machine_line(described).startswith(f"{described['date']}, {described['machine']['cpu']}, ")
