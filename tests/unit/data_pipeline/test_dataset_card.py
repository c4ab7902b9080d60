"""What a pushed dataset tells of itself: its card and its manifest, and nothing of this machine."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard

from data_pipeline.config import ShardConfig
from data_pipeline.dataset_card import data_files, dataset_card
from data_pipeline.manifest import Manifest, Shard, Split, Statistics
from data_pipeline.pushing import dataset_upload, public_record, written_files
from launch.hub_config import HubConfig

PAGE = "https://huggingface.co/datasets/user/pets"


def listed(*files: str) -> list[Shard]:
    return [Shard(file, 7, 100, "0" * 64, f"__index__/{file[:-4]}.npy", "1" * 64, 0) for file in files]


def manifest(splits: dict[str, Split], made: dict[str, Any] | None = None, **options: Any) -> Manifest:
    plain = {"command": "--source pets", "options": {"source": "pets"}, "source": "folder of images pets"}
    counts = {"versions": {"sherd": "1"}, "dropped": {}, "quarantined": 0}
    statistics = Statistics((0.5,) * 3, (0.25,) * 3, (4, 5), (60, 70))
    options = {"classes": ("cat", "dog|wolf")} | options
    return Manifest(
        Path("/data/pets"), statistics=statistics, made=plain | counts | (made or {}), splits=splits, **options
    )


SPLITS = {
    "train": Split("jpg", listed("train-000000.tar", "train-000001.tar"), withdrawn=(3,)),
    "test": Split("jpg", listed("test-000000.tar")),
}


def test_the_front_matter_names_the_tars_of_each_split() -> None:
    data = DatasetCard(dataset_card(manifest(SPLITS), "user/pets", None, "cc-by-4.0", PAGE)).data.to_dict()
    assert data["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "train-*.tar"},
                {"split": "test", "path": "test-*.tar"},
            ],
        }
    ]
    assert data["license"] == "cc-by-4.0"
    assert data["task_categories"] == ["image-classification"]
    assert data["size_categories"] == ["n<1K"]


def test_the_text() -> None:
    made = {"quarantined": 2, "dropped": {"duplicates": 3, "min_side": 1}, "shrunk": 0}
    card = dataset_card(manifest(SPLITS, made), "user/pets", "v1", "other", PAGE)
    assert "| train | 13 | jpg, 3 channels of uint8 | 2 | 200 |" in card
    assert "1 images more are withdrawn: `withdrawn.txt` lists their keys" in card
    assert r"2 classes, numbered in this order in each image's `.cls`: cat, dog\|wolf." in card
    assert "sides from 4 x 5 to 60 x 70 pixels" in card
    assert "--data hf://datasets/user/pets@v1 --out" in card
    assert 'load_dataset("user/pets", split="train", revision="v1", streaming=True)' in card
    assert f"{PAGE}/resolve/v1/" in card
    assert (
        "- 2 broken images were left out\n- 3 images with the bytes of an earlier one were left out\n"
        "- 1 images were left out by --min-side\n\n"
    ) in card
    assert f"| test | `{SPLITS['test'].fingerprint}` |" in card
    assert "Licence: other: none was stated" in card
    assert "\n\n\n" not in card
    assert "WebDataset tars, shuffled once, with an index" in card
    theirs = {"train": Split("jpg", [replace(shard, first=-1) for shard in listed("train-000000.tar")])}
    assert "WebDataset tars, with an index" in dataset_card(manifest(theirs), "user/pets", None, "other", PAGE)


def test_without_labels() -> None:
    card = dataset_card(manifest(SPLITS, classes=None), "user/pets", None, "other", PAGE)
    assert "There are no labels." in card
    assert "task_categories" not in card


def test_a_pattern_that_fits_other_splits_becomes_a_list() -> None:
    splits = {
        "train": Split("jpg", listed("train-000000.tar")),
        "train-2": Split("jpg", listed("train-2-000000.tar")),
        "others": Split("jpg", listed("a/b.tar")),
    }
    found = {name: data_files(manifest(splits), name) for name in splits}
    assert found == {"train": ["train-000000.tar"], "train-2": "train-2-*.tar", "others": ["a/b.tar"]}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("/home/ada/secret project/flowers", "flowers"),
        ("/home/ada/lists/all.csv", "all.csv"),
        ("/home/ada/train-{000..009}.tar", "train-{000..009}.tar"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("s3://bucket/images", "s3://bucket/images"),
        ("https://me:pass@host/x.csv", "https://host/x.csv"),
        ("digits", "digits"),
    ],
)
def test_a_source_on_this_machine_is_named_by_its_last_part(source: str, shown: str) -> None:
    config = ShardConfig(source, "out")
    made = {"command": config.command, "options": config.reproducing, "source": f"folder of images {source}"}
    found = public_record(config, manifest(SPLITS, made))
    assert found["options"]["source"] == shown
    assert "ada" not in json.dumps(found)
    assert "me:pass" not in json.dumps(found)
    if "://" not in source:
        assert found["source"] == f"folder of images {shown}"
        assert found["command"] == replace(config, source=shown).command


def test_what_an_earlier_upload_wrote() -> None:
    names = written_files(json.dumps(manifest(SPLITS).to_json()).encode())
    assert {
        "manifest.json",
        "README.md",
        "train-000001.tar",
        "__index__/test-000000.npy",
        "__index__/test-000000.txt",
    } <= {*names}
    with pytest.raises(ValueError, match="format is 'else'"):
        written_files(b'{"format": "else"}')


def test_tars_that_lie_elsewhere_are_refused(tmp_path: Path) -> None:
    config = ShardConfig("s3://bucket/x", "out", index_only=True, push="user/pets")
    with pytest.raises(ValueError, match=r"--push user/pets: the tars of out lie in s3://bucket/x, and only what lies"):
        dataset_upload(config, manifest(SPLITS, tars_at="s3://bucket/x"), tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"push": "pets"}, "--push 'pets': not the name of a repository"),
        ({"push": "user/pets", "license": "CC BY"}, "--license 'CC BY' is not spelled as on the Hub"),
        ({"license": "mit"}, r"--license and --hub\.\* are of the upload: give --push user/name too"),
        ({"hub": HubConfig(tag="v1")}, r"--license and --hub\.\* are of the upload"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardConfig("digits", "out", **options)
