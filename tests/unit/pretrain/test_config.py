"""Which configurations are accepted, and what the others are told."""

import dataclasses
import subprocess
import sys

import pytest

from pretrain.config import DecoderConfig, EncoderConfig, ObjectiveConfig, OptimizerConfig


def encoder(image_size=(224, 224), patch_size=(16, 16), name="vit_base_patch16_224", **changes) -> EncoderConfig:
    return EncoderConfig(name, image_size, patch_size, **changes)


def test_importing_the_configuration_imports_nothing_heavy():
    heavy = "torch timm numpy transformers jaxtyping"
    program = f"import sys, pretrain.config; print(sorted(set(sys.modules) & set('{heavy}'.split())))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_defaults_are_the_published_ones():
    assert dataclasses.astuple(DecoderConfig()) == (512, 8, 16)
    assert dataclasses.astuple(ObjectiveConfig()) == (0.75, True)
    assert dataclasses.astuple(OptimizerConfig()) == (1.5e-4, 0.05, (0.9, 0.95), 40, 0, None, "adamw", 0.9)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecoderConfig().width = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_the_grid_is_rows_by_columns():
    config = encoder((32, 96), (4, 8))
    assert config.grid == (8, 12)
    assert config.patches == 96


@pytest.mark.parametrize(
    ("image_size", "patch_size", "message"),
    [
        (
            (225, 225),
            (16, 16),
            "--encoder.image-size 225 is not divisible by the patch size 16; the nearest that are: 224, 240",
        ),
        ((10, 10), (16, 16), "--encoder.image-size 10 is not divisible by the patch size 16; the nearest that are: 16"),
        (
            (224, 230),
            (16, 16),
            "--encoder.image-size 224 230: the width 230 is not divisible by the patch width 16; "
            "the nearest that are: 224, 240",
        ),
        (
            (30, 32),
            (4, 8),
            "--encoder.image-size 30 32: the height 30 is not divisible by the patch height 4; "
            "the nearest that are: 28, 32",
        ),
        ((0, 16), (16, 16), "--encoder.image-size expects two positive numbers of pixels (height width), got 0 16"),
        ((16, 16), (16, -1), "--encoder.patch-size expects two positive numbers of pixels (height width), got 16 -1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(image_size, patch_size, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared whole below
        encoder(image_size, patch_size)
    assert str(error.value) == message


@pytest.mark.parametrize("name", ["vit_base_patch16_224.mae", "hf-hub:timm/vit_base_patch16_224.mae"])
def test_a_weights_tag_is_refused(name):
    with pytest.raises(ValueError, match=rf"^--encoder.name {name} names pretrained .*; pass vit_base_patch16_224 and"):
        encoder(name=name)


@pytest.mark.parametrize("option", ["channels", "width", "depth", "heads"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f"^--encoder.{option} expects a positive number, got 0$"):
        encoder(**{option: 0})


def test_heads_that_do_not_share_the_width_are_refused():
    message = r"^--encoder.width 192 is not divisible by --encoder.heads 5; the nearest heads that fit: 3, 4, 6$"
    with pytest.raises(ValueError, match=message):
        encoder(width=192, heads=5)
    with pytest.raises(ValueError, match=r"^--decoder.width 512 is not divisible by --decoder.heads 12; .*: 4, 8, 16$"):
        DecoderConfig(heads=12)


def test_a_decoder_width_that_sincos_positions_cannot_fill_is_refused():
    message = r"^--decoder.width 30 is not divisible by 4, as sine-cosine positions need; the nearest that are: 28, 32$"
    with pytest.raises(ValueError, match=message):
        DecoderConfig(width=30, heads=3)
    with pytest.raises(ValueError, match=r"^--decoder.depth expects a positive number, got 0$"):
        DecoderConfig(depth=0)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, float("nan")])
def test_mask_ratios_outside_their_range_are_refused(ratio):
    with pytest.raises(ValueError, match=r"^--objective.mask-ratio expects a share strictly between 0 and 1, got"):
        ObjectiveConfig(mask_ratio=ratio)


@pytest.mark.parametrize(
    ("patches", "ratio", "visible"), [(196, 0.75, 49), (256, 0.75, 64), (100, 0.6, 40), (7, 0.5, 3), (2, 0.5, 1)]
)
def test_the_fraction_of_a_patch_is_hidden(patches, ratio, visible):
    assert ObjectiveConfig(ratio).visible_patches(patches) == visible


def test_a_ratio_that_leaves_nothing_visible_is_refused_with_one_that_does_not():
    message = r"^--objective.mask-ratio 0.99 leaves 0 visible of 49 patches, .*; pass at most 0.979$"
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(0.99).visible_patches(49)
    assert ObjectiveConfig(0.979).visible_patches(49) == 1
    with pytest.raises(ValueError, match=r"of 1 patches, .*; choose a smaller --encoder.patch-size$"):
        ObjectiveConfig().visible_patches(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_lr": 0.0}, "--optimizer.base-lr expects a positive number, got 0.0"),
        ({"weight_decay": -0.1}, "--optimizer.weight-decay expects zero or more, got -0.1"),
        ({"betas": (0.9, 1.0)}, r"--optimizer.betas expects two numbers in \[0, 1\), got 0.9 1.0"),
        ({"warmup_epochs": -1.0}, "--optimizer.warmup-epochs expects zero or more, got -1.0"),
        ({"min_lr": -1.0}, "--optimizer.min-lr expects zero or more, got -1.0"),
        ({"clip_norm": 0.0}, "--optimizer.clip-norm expects a positive number or None, got 0.0"),
        (
            {"algorithm": "sgd", "momentum": 1.0},
            "--optimizer.momentum expects a number strictly between 0 and 1, got 1.0",
        ),
        (
            {"algorithm": "lamb", "momentum": 0.8},
            "--optimizer.momentum 0.8 expects --optimizer.algorithm sgd, got lamb; "
            "pass --optimizer.betas 0.8 0.95 instead",
        ),
    ],
)
def test_optimizer_numbers_outside_their_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        OptimizerConfig(**changes)
