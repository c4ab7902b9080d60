"""What preprocessor_config.json says, in timm's words; that the pixels are Transformers' own is a golden test."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pretrain.pixels import Normalization
from pretrain.preprocessor_file import Preparation, read_preprocessor

HALF = Normalization((0.5,) * 3, (0.5,) * 3)


def read(folder: Path, **said: Any) -> tuple[Normalization, Preparation]:
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return read_preprocessor(folder / "preprocessor_config.json", (224, 224), 3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, ("bilinear", 1.0, "squash")),
        ({"image_processor_type": "ViTImageProcessorFast", "resample": 3}, ("bicubic", 1.0, "squash")),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, ("bilinear", 1.0, "squash")),
        ({"image_processor_type": "DeiTImageProcessor"}, ("bicubic", 0.875, "squash")),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224},
            ("bicubic", 0.875, "squash"),
        ),
        ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}}, ("bicubic", 0.875, "center")),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 224, "crop_size": 224, "do_center_crop": True},
            ("bicubic", 1.0, "center"),
        ),
        (
            {"do_center_crop": True, "size": {"shortest_edge": 249}, "crop_size": {"height": 224, "width": 224}},
            ("bilinear", 224 / 249, "center"),
        ),
    ],
    ids=str,
)
def test_processors_are_told_in_timms_words(tmp_path: Path, said: dict[str, Any], expected: tuple[str, float, str]):
    normalization, preparation = read(tmp_path, **said)
    assert normalization == HALF
    assert (preparation.interpolation, preparation.crop_mode) == (expected[0], expected[2])
    assert preparation.crop_fraction == pytest.approx(expected[1], abs=1e-12)


def test_the_size_that_is_resized_to_survives_the_division(tmp_path: Path):
    for resized in range(225, 300):
        _, preparation = read(tmp_path, do_center_crop=True, size={"shortest_edge": resized})
        assert math.floor(224 / preparation.crop_fraction) == resized  # as timm computes it


def test_numbers_are_shares_of_white_however_they_are_rescaled(tmp_path: Path):
    assert read(tmp_path, do_normalize=False)[0] == Normalization((0.0,) * 3, (1.0,) * 3)
    assert read(tmp_path, rescale_factor=0.00392156862745098, image_mean=[0.1, 0.2, 0.3])[0].mean == (0.1, 0.2, 0.3)
    # Pixels from 0 to 255, and from 0 to 2.
    raw = read(tmp_path, do_rescale=False, image_mean=[127.5] * 3, image_std=[127.5] * 3)[0]
    assert raw == HALF
    assert read(tmp_path, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3)[0] == HALF


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"size": 384}, "images of 384 x 384 pixels come out of it, expected the model's 224 x 224; correct size"),
        (
            {"size": {"longest_edge": 9}},
            "size is {'longest_edge': 9} and crop_size None, expected height and width, or",
        ),
        ({"size": "224"}, "size is 224 and crop_size None, expected height and width, or shortest_edge"),
        ({"resample": 9}, "resample is 9, expected the number of one of Pillow's filters, such as 3"),
        ({"do_resize": False}, "do_resize is false, expected images that are brought to the model's 224 x 224 pixels"),
        ({"image_mean": [0.5]}, "image_mean [0.5] and image_std [0.5, 0.5, 0.5], expected 3 numbers each"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std [0.5, 0.5, 0], expected 3 numbers each, for the model's 3 channels"),
        (
            {"do_center_crop": True, "size": {"height": 256, "width": 300}, "crop_size": 224},
            "of images resized to 256 x 300 other shares of the height and of the width are left out",
        ),
    ],
    ids=str,
)
def test_a_preparation_that_is_not_the_models_is_refused(tmp_path: Path, said: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: ") as caught:
        read(tmp_path, **said)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
