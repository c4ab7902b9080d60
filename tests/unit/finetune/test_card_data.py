"""The card tells how a dataset was made, and nothing of where it lay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.location import RemotePath
from data_pipeline.manifest import INDEX_DTYPE, Manifest, Shard, Split, Statistics
from finetune.card_data import DataFacts, data_facts


def facts(tmp_path: Path, folder: Path | RemotePath | None = None, **made: Any) -> DataFacts:
    np.save(tmp_path / "index.npy", np.zeros(4, INDEX_DTYPE))
    shard = Shard("train.tar", 4, 1, "9" * 64, "index.npy", "8" * 64)
    splits = {
        "train": Split("png", (shard,), class_counts=(1, 0, 3)),
        "te_st": Split("png", (shard,), withdrawn=(2,)),
    }
    statistics = Statistics((0.5,) * 3, (0.5,) * 3, (8, 8), (9, 12))
    return data_facts(Manifest(folder or tmp_path / "pets", None, statistics, {"command": "", **made}, splits))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("scikit-learn's digits", "scikit-learn's digits"),
        ("folder of images /home/secret/raw_pets", r"folder of images raw\_pets"),
        ("table /home/secret/cifar10/", "table cifar10"),
        ("list https://user:secret@secret-host/all.csv?sig=secret", "list all.csv"),
        ("WebDataset tars s3://secret-bucket/pets-{000..009}.tar", "WebDataset tars pets-{000..009}.tar"),
        ("Hub dataset uoft-cs/cifar10", "Hub dataset uoft-cs/cifar10"),
        ("stream of uoft-cs/cifar10", "stream of uoft-cs/cifar10"),
        ("/home/secret/of an unknown kind", "of an unknown kind"),
    ],
)
def test_the_source_is_told_without_its_place(tmp_path: Path, source: str, shown: str):
    found = facts(tmp_path, source=source, options={"source": source, "seed": 0})
    assert dict(found.rows)["Source"] == shown
    assert "secret" not in str(found)


def test_what_became_of_the_images(tmp_path: Path):
    found = dict(
        facts(
            tmp_path,
            options={"source": "/x", "shard-size": 100, "streaming": True, "image-column": "a`b"},
            listed={"train": 1234, "te_st": 5},
            dropped={"min_side": 1200, "duplicates": 3},
            quarantined=2,
            converted=7,
            shrunk=1000,
            versions={"sherd": "0.1.0", "numpy": "2.4"},
        ).rows
    )
    assert found == {
        "Options": "`--shard-size 100` `--streaming` `--image-column a'b`",
        "Found": r"1,234 images in train, 5 images in te\_st",
        "Left out": "1,200 by `--min-side`, 3 by `--duplicates`, 2 that do not decode, 1 withdrawn since",
        "Changed": "7 images encoded as PNG, without loss, 1,000 images made smaller, and encoded anew as JPEG",
        "Size": "8 x 8 pixels at least, 9 x 12 at most",
        "Made with": "sherd 0.1.0, numpy 2.4",
    }


def test_an_index_of_old_tars_tells_what_it_knows(tmp_path: Path):
    assert dict(facts(tmp_path).rows) == {
        "Left out": "1 withdrawn since",
        "Changed": "nothing: each image is stored byte for byte",
        "Size": "8 x 8 pixels at least, 9 x 12 at most",
    }


def test_the_splits(tmp_path: Path):
    train, test = facts(tmp_path).splits
    assert (train.name, train.images, train.classes) == ("train", "4", "2, of 1 to 3 images")
    assert (test.name, test.images, test.classes) == (r"te\_st", "3", "no labels")
    assert train.fingerprint != test.fingerprint


def test_what_lies_on_the_hub_is_linked(tmp_path: Path):
    plain = facts(tmp_path)
    assert (plain.name, plain.links) == ("pets", ())
    found = facts(tmp_path, RemotePath("hf://datasets/me/shards@main"), source="Hub dataset cifar10")
    assert found.name == "me/shards"
    assert dict(found.links) == {
        "me/shards": "https://huggingface.co/datasets/me/shards",
        "cifar10": "https://huggingface.co/datasets/cifar10",
    }
