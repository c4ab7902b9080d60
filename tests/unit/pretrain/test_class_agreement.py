"""A head for other classes, and images of other channels, are refused; what could not be compared is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.backbone_config import BackboneConfig
from pretrain.class_agreement import check_channels, check_classes
from pretrain.model_source import ModelSource, Preparation
from pretrain.pixels import IMAGENET

NAMES = ("ant", "bee", "cat", "dog")
SOURCE = ModelSource(
    "runs/teacher",
    Path("/cache/1f/model"),
    BackboneConfig("resnet18"),
    IMAGENET,
    Preparation("bicubic", 0.875, "center"),
    classes=4,
    class_names=NAMES,
    pool="own",
    is_ours=True,
    is_folder=True,
)


def test_the_same_names_in_the_same_order_need_no_word():
    assert check_classes(SOURCE, NAMES, "--teacher") is None


def test_another_number_is_refused_with_both():
    with pytest.raises(
        ValueError,
        match=r"--teacher: the head of runs/teacher is for 4 classes, the data have 5; give a model that was trained",
    ):
        check_classes(SOURCE, (*NAMES, "eel"), "--teacher")
    with pytest.raises(ValueError, match=r"--head keep: .* is for 4 classes, the data have 3; drop --head keep$"):
        check_classes(SOURCE, NAMES[:3], "--head keep", fix="drop --head keep")
    with pytest.raises(ValueError, match=r"--teacher: runs/teacher has no head, expected one for 4 classes; give"):
        check_classes(replace(SOURCE, classes=0, class_names=None), NAMES, "--teacher")


def test_another_order_is_refused_with_the_first_that_differs():
    with pytest.raises(
        ValueError, match=r"in another order: its number 1 is 'bee', that of the data 'dog'; .*, or shard the images"
    ):
        check_classes(SOURCE, ("ant", "dog", "cat", "bee"), "--teacher")
    # Two have changed places, though another is named otherwise.
    with pytest.raises(ValueError, match=r"in another order: its number 0 is 'ant', that of the data 'bee'"):
        check_classes(SOURCE, ("bee", "ant", "kitten", "dog"), "--teacher")


def test_what_could_not_be_compared_is_said():
    said = check_classes(replace(SOURCE, class_names=None), NAMES, "--teacher")
    assert said == (
        "--teacher: runs/teacher does not name its 4 classes: only their number could be compared with the data's, not "
        "their order"
    )
    said = check_classes(SOURCE, ("ant", "bee", "kitten", "puppy"), "--teacher")
    assert said == (
        "--teacher: runs/teacher names 2 of 4 classes otherwise than the data, such as 'cat' for 'kitten': of these "
        "only the number could be compared, not the order"
    )
    # A name that stands for two classes, as some of ImageNet's do, is no other order.
    twice = replace(SOURCE, class_names=("crane", "bee", "cat", "crane"))
    assert check_classes(twice, ("crane bird", "bee", "cat", "crane"), "--teacher") is not None


def test_channels():
    check_channels(SOURCE, 3, "--teacher")
    with pytest.raises(
        ValueError, match=r"--teacher: runs/teacher is for images of 3 channels, the data's have 1; give a model"
    ):
        check_channels(SOURCE, 1, "--teacher")
