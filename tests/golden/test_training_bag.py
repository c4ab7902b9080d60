"""The DeiT training bag against timm, torchvision and Pillow, which are given the numbers that sherd draws."""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from timm.data import auto_augment, random_erasing
from timm.data.auto_augment import auto_augment_transform
from timm.data.mixup import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchvision.transforms import functional

from data_pipeline.colour_jitter import ColourJitter
from data_pipeline.randomness import Draws, Purpose
from data_pipeline.three_augment import ThreeAugment
from pretrain.augment_config import MixingConfig
from pretrain.erasing import erase
from pretrain.mixing import draw_mix, mix_images, mix_targets, soft_targets

BOTH = MixingConfig(0.8, 1.0, 0.1)


class Replayed:
    """Stands in for Python's `random`, and answers a library's questions with a key's draws."""

    def __init__(self, *words: int) -> None:
        self._draws = Draws(*words)

    def random(self) -> float:
        return self._draws.uniform()

    def uniform(self, low: float, high: float) -> float:
        return self._draws.uniform(low, high)

    def randint(self, low: int, high: int) -> int:
        """Both ends included."""
        return low + self._draws.integer(high - low + 1)

    def choice(self, options: Sequence[Any]) -> Any:
        """Timm lists solarisation before grayscale."""
        return options[(1, 0, 2)[self._draws.integer(3)]]


class Told(Draws):
    """Draws that were written down: uniform numbers, shares and integers, each in the order they are asked for."""

    def __init__(self, uniform: float, share: float, integers: Sequence[int]) -> None:
        super().__init__(0)
        self._uniform, self._share, self._integers = uniform, share, list(integers)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * self._uniform

    def beta(self, alpha: float) -> float:
        return self._share

    def integer(self, count: int) -> int:
        return self._integers.pop(0)


def picture(height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def batch(rows: int, classes: int, size: tuple[int, int] = (8, 12)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(rows, 3, *size, generator=generator), torch.randint(classes, (rows,), generator=generator)


# For images of 8 x 12. A first number below .5 is CutMix; the box's sides are sqrt(1 - share) of the image's, and it is
# cut off at borders, after which a row's share is that of the area outside. Every row was worked by hand.
TABLE = [
    # switch, share, centre (row, column), box (top, bottom, left, right), share that results
    (0.9, 0.3, (), None, 0.3),
    (0.5, 0.75, (), None, 0.75),
    (0.4, 0.75, (4, 6), (2, 6, 3, 9), 1 - 24 / 96),
    (0.0, 0.75, (0, 11), (0, 2, 8, 12), 1 - 8 / 96),
    (0.1, 0.0, (7, 0), (3, 8, 0, 6), 1 - 30 / 96),
    (0.2, 1.0, (3, 3), (3, 3, 3, 3), 1.0),
]
# A width of 3, of which half is rounded down on either side, as in the paper's code and the timm of DeiT's runs; later
# versions of timm show one column more.
ODD = (0.3, 0.9375, (5, 5), (4, 6, 4, 6), 1 - 4 / 96)

Box = tuple[int, int, int, int]


@pytest.mark.parametrize(("switch", "share", "centre", "box", "result"), [*TABLE, ODD])
def test_mixing_by_numbers_written_down(
    switch: float, share: float, centre: tuple[int, ...], box: Box | None, result: float
):
    mix = draw_mix(BOTH, Told(switch, share, centre), (8, 12))
    assert (mix.share, mix.box) == (pytest.approx(result), box)
    images, labels = batch(4, 5)
    mixed, targets = mix_images(images, mix), mix_targets(soft_targets(labels, 5, 0.1), mix.share)
    for row in range(4):
        other = (row + 2) % 4
        expected = images[row].clone()
        if box is None:
            expected = result * images[row] + (1 - result) * images[other]
        else:
            top, bottom, left, right = box
            expected[:, top:bottom, left:right] = images[other, :, top:bottom, left:right]
        torch.testing.assert_close(mixed[row], expected)
        by_hand = torch.full((5,), 0.1 / 5)
        by_hand[labels[row]] += 0.9 * result
        by_hand[labels[other]] += 0.9 * (1 - result)
        torch.testing.assert_close(targets[row], by_hand)


@pytest.mark.parametrize("row", TABLE)
def test_timm_mixes_alike(
    row: tuple[float, float, tuple[int, ...], Box | None, float], monkeypatch: pytest.MonkeyPatch
):
    """Timm pairs row i with row -1 - i: it is fed the batch with its second half turned round."""
    switch, share, centre, _, _ = row
    images, labels = batch(8, 6)
    laid = torch.tensor([0, 1, 2, 3, 7, 6, 5, 4])
    uniform, centres = iter([0.0, switch]), iter(centre)  # it asks first whether to mix at all
    monkeypatch.setattr(np.random, "rand", lambda: next(uniform))
    monkeypatch.setattr(np.random, "beta", lambda alpha, _: share)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: next(centres))
    timms = Mixup(BOTH.mixup, BOTH.cutmix, prob=1.0, label_smoothing=BOTH.label_smoothing, num_classes=6)
    mixed, targets = timms(images[laid], labels[laid])
    mix = draw_mix(BOTH, Told(switch, share, centre), (8, 12))
    torch.testing.assert_close(mix_images(images, mix)[laid], mixed)
    torch.testing.assert_close(mix_targets(soft_targets(labels, 6, BOTH.label_smoothing), mix.share)[laid], targets)


def test_boxes_of_random_erasing_are_timms_for_the_same_numbers(monkeypatch: pytest.MonkeyPatch):
    images, seed, erased = torch.full((1, 3, 24, 40), 9.0), 4, 0
    timms = random_erasing.RandomErasing(probability=0.25, mode="pixel", device="cpu")
    for position in range(200):
        ours = erase(images, np.array([position]), probability=0.25, seed=seed)
        monkeypatch.setattr(random_erasing, "random", Replayed(seed, position, Purpose.ERASING))
        theirs = timms(images.clone())
        assert torch.equal(ours == 9, theirs == 9), position
        erased += bool((ours != 9).any())
    assert 35 < erased < 65


def test_the_three_operations_are_those_of_pillow_torchvision_and_timm(monkeypatch: pytest.MonkeyPatch):
    pixels, met = picture(), Counter()
    image = Image.fromarray(pixels)
    timms = auto_augment_transform("3a", {"img_mean": (124, 116, 104)})
    for number in range(60):
        found = ThreeAugment().apply(Draws(number), pixels)
        draws = Draws(number)
        choice = draws.integer(3)
        if choice == 0:
            expected = functional.to_grayscale(image, num_output_channels=3)
        elif choice == 1:
            expected = functional.solarize(image, 128)
        else:
            expected = image.filter(ImageFilter.GaussianBlur(radius=draws.uniform(0.1, 2.0)))
        np.testing.assert_array_equal(found, np.asarray(expected))
        monkeypatch.setattr(auto_augment, "random", Replayed(number))
        np.testing.assert_array_equal(found, np.asarray(timms(image)))
        met[choice] += 1
    assert min(met.values()) > 10


def test_colour_jitter_is_torchvisions_in_one_of_six_orders_each_as_likely():
    pixels, met = picture(6, 8), Counter()
    image = Image.fromarray(pixels)
    adjust = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    for number in range(400):
        found = ColourJitter(0.4).apply(Draws(number), pixels)
        draws = Draws(number)
        factors = [draws.uniform(0.6, 1.4) for _ in adjust]
        matching = []
        for order in permutations(range(3)):
            shown = image
            for step in order:
                shown = adjust[step](shown, factors[step])
            if np.array_equal(found, np.asarray(shown)):
                matching.append(order)
        assert matching, number
        if len(matching) == 1:
            met[matching[0]] += 1
    counted = sum(met.values())
    assert counted > 300
    assert all(abs(met[order] / counted - 1 / 6) < 0.07 for order in permutations(range(3))), met


def test_smoothed_and_mixed_labels_give_timms_losses():
    _, labels = batch(8, 6)
    logits = 3 * torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    smoothed = soft_targets(labels, 6, 0.1)
    torch.testing.assert_close(cross_entropy(logits, smoothed), LabelSmoothingCrossEntropy(0.1)(logits, labels))
    mixed = mix_targets(smoothed, 0.3)
    torch.testing.assert_close(cross_entropy(logits, mixed), SoftTargetCrossEntropy()(logits, mixed))
